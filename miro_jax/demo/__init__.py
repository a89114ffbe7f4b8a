"""What shows a network in a browser.

explore         `miro-jax explore`: a static page of images at many levels, with sliders
explore_sheet   its images: the views of a prompt, side by side
explore_page    its files: the page, and the scores of each prompt
command         `miro-jax demo`: sliders for all targets, drawn on request; `options` are its flags
form            what its page requests, as JSON, a link, Python and a command
studio          a pipeline, its rewards and presets: draws and measures what a form requests
levels          the levels that training would have given to measured scores
figures         images with their scores, and dial curves, as HTML
page            the page, of gradio's components
"""

import lazy_loader

# Imported when first used: `--help` needs neither jax nor gradio.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["explore_page", "figures", "form", "page", "studio"]
)
