"""Files as sources of rows: text in columns, Parquet, NumPy's arrays. Which one reads a path is said in `shelf.py`."""

from .shelf import READABLE as READABLE
from .shelf import reads_text as reads_text
from .shelf import source_of as source_of
from .source import Chosen as Chosen
from .source import Reading as Reading
from .source import Source as Source
from .source import as_arguments as as_arguments
from .source import listed as listed
from .source import positions as positions
from .source import reading as reading
from .text import Text as Text
