"""What a licence decision costs, whether a second opinion agrees, and how soon a revocation is in force."""
