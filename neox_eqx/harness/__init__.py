"""EleutherAI's lm-evaluation-harness with our models; `lm_eval`, which it needs, is optional.

`neox-eqx evaluate` is the harness's own command, with "neox_eqx" among its models.
"""
