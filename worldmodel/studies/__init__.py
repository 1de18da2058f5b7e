"""What is learned about models by training many of them, or by looking inside one."""
