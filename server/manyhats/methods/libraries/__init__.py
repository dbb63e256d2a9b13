"""How other libraries' files name what a method stores: what each method says of itself to the formats."""
