__version__ = "0.1.0"

from .imports import install_fastai_finder

install_fastai_finder()
