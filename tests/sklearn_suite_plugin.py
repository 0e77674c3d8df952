"""A pytest plugin: puts our estimator in the place of scikit-learn's, before scikit-learn's own tests import it."""

import sklearn.mixture

import jaxgmm

sklearn.mixture.GaussianMixture = jaxgmm.GaussianMixture
