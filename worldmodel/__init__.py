"""worldmodel: collect, pretrain, dream, plan, measure.

Importing this package imports nothing heavy: environments and collection workers never pay for torch.
"""

__version__ = "0.1.0"
