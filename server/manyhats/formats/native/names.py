"""The files of our own folders."""

from manyhats.methods.libraries.native_files import FILE as FILE
from manyhats.methods.libraries.native_files import WEIGHTS as WEIGHTS

FILES = (FILE, WEIGHTS)  # all that is read here
