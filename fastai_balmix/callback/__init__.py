"Callbacks to pass as `cbs`, and pictures to look at before training"
import lazy_loader

__getattr__,__dir__,__all__ = lazy_loader.attach_stub(__name__, __file__)
