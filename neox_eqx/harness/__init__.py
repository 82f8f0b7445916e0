"""EleutherAI's lm-evaluation-harness with our models; `lm_eval`, which it needs, is optional.

`python -m neox_eqx.harness` is the harness's own command, with "neox_eqx" among its models.
"""
