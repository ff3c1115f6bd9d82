"""Based's linear attention: the second-order Taylor map of exp(q k) as feature map."""
