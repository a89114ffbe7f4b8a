"""The shapes world: procedural images with exact captions, and a detector that reads any image.

scene     what an image shows, drawn at random, and the vocabulary
render    scene -> image
captions  scene -> texts, text -> what it asks for, and whether a scene has it
regions   image -> the colourful regions in it
detect    image -> objects and quality, by looking at the pixels only
world     tar shards of images with captions; prompts and verdicts for evaluation
"""
