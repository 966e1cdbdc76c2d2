"""How long answers will be: distributions, the trained predictor, and the logs it is trained on.

Nothing is imported here: only `model`, `features` and `model_file` need numpy.
"""
