"""Matrix products and attention, in the forms that each platform computes fast."""
