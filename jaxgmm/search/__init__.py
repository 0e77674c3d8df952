"""Many runs, families and numbers of components: from what is asked (`plan.py`) to what is chosen."""
