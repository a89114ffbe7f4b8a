"""Stage: records -> a trained network; `loop.run`."""
