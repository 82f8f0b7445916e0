"""What shapes the next token's logits, each a small module with one value a row.

Bans and penalties take the history and hold for every choice; warpers look at the logits alone
and apply where a row samples. They follow transformers' classes of similar names, edge cases
included; `chain.py` has the order.
"""
