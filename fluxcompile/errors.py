"""One exception per kind of mistake a caller can make; each message says what, where and what to do."""


def in_a_line(error: BaseException) -> str:
    """Its kind and the first line of what it says: the reason of a row in a table."""
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]


class FluxError(Exception):
    """Base of everything fluxcompile raises on purpose."""


class CaptureError(FluxError):
    """The model cannot be captured: control flow on data, an unsupported operator, training mode."""


class InputError(FluxError, ValueError):
    """What was passed to a compiled net does not fit it: shape, dtype, NaN, wrong number of inputs."""


class OptionError(FluxError, ValueError):
    """An option, flag or environment variable has a value that means nothing."""


class TaskError(FluxError):
    """The outputs are not those of the task."""


class ProgramError(FluxError):
    """A saved program is truncated, altered, or made by a newer version."""


class ProtocolError(FluxError):
    """The other side of a connection said what it must not, or is no fluxcompile at all: close the connection."""


class RefusedError(FluxError):
    """A server will not take this camera: another token, another program, no room."""


class TransportError(FluxError):
    """A packet of a picture is damaged, out of turn or not what it says: send a key packet."""


class ProfileError(FluxError):
    """A device profile is missing, damaged, or none of this net."""


class BoundaryError(FluxError):
    """Bytes of boundary maps are damaged, out of order, or of another partition."""


class VerifyError(FluxError):
    """A pass left a graph that breaks its stage's rules: a bug in the compiler, please report it."""


class DeviceError(FluxError):
    """The GPU, its driver or a compiler for it is missing, or is not one that the kernels can run on."""


class ExportError(FluxError):
    """A program cannot be exported to a target: an unknown target, an op without a lowering, too much memory."""


class BundleError(FluxError):
    """A bundle is incomplete, truncated or altered."""


class EngineError(FluxError):
    """An engine cannot be built, loaded or run here: no TensorRT, the wrong version, another GPU."""
