"""The file names of our own formats."""

from manyhats.methods.libraries.native_files import FILE as FILE
from manyhats.methods.libraries.native_files import WEIGHTS as WEIGHTS

FILES = (FILE, WEIGHTS)  # all files that are read
