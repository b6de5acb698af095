"""The science: guidance, advantages and the expert's weight. Imports nothing but torch."""
