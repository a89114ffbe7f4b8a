# The public names; lazy_loader reads them here too, and imports each when first used.
from .rewards.table import load_reward as load_reward
from .sample.pipeline import MiroPipeline as MiroPipeline

__version__: str
