"""The command ``lfpose``. Each command's module is imported only when it runs."""
