"""Prints the presets as the table that docs/models.md has."""

from neox_eqx.presets import markdown_table

if __name__ == "__main__":
    print(markdown_table())
