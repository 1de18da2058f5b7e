"""What is learnt about models by training many of them, or by looking inside one."""
