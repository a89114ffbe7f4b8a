"""What shows a network in a browser.

explore         `miro-jax explore`: a static page of images at many levels, with sliders
explore_sheet   its images: the views of a prompt, side by side
explore_page    its files: the page, and the scores of each prompt
"""

import lazy_loader

# Imported when first used: `miro-jax explore --help` needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["explore_page"])
