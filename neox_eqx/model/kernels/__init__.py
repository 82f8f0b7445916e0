"""Matrix products and attention, written for what each platform computes fast."""
