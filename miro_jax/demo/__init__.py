"""What shows a network in a browser.

explore         `miro-jax explore`: a static page of images at many levels, with sliders
explore_sheet   its images: the views of a prompt, side by side
explore_page    its files: the page, and the scores of each prompt
"""
