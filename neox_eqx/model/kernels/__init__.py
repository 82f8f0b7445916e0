"""Products and attention as a platform wants them; everything else asks for the mathematics."""
