"""From rows to gradients."""
