"""The shapes world: procedural pictures with exact captions, and a detector that reads any picture
back.

scene     what a picture shows, drawn at random, and the vocabulary
render    scene -> picture
captions  scene -> texts, text -> what it asks for, and whether a scene has it
regions   picture -> the colourful regions in it
detect    picture -> objects and quality, by looking at the pixels only
world     tar shards of pictures with captions; prompts and verdicts for evaluation
"""
