"""Colours of video frames as a player on a usual screen shows them: sRGB, in 8 bits.

Numbers of matrix, primaries and curve are those of ITU-T H.273.
"""

from functools import cache

import av
import numpy as np
from av.video.reformatter import Colorspace
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from linnet.errors import InvalidInput

Frame = UInt8[np.ndarray, "H W 3"]
Colours = Float[np.ndarray, "... 3"]

UNKNOWN = 2
MATRICES = (
    0,
    1,
    4,
    5,
    6,
    7,
    9,
)  # RGB, BT.709, FCC, BT.601 in two, SMPTE 240M, BT.2020: what the converter knows
PQ, HLG = 16, 18
BT2020 = 9
BY_PRIMARIES = {1: Colorspace.ITU709, 5: Colorspace.ITU601, 6: Colorspace.ITU601, 9: Colorspace.BT2020}
HD = (1280, 720)  # from one of these on, what names no matrix is BT.709
# Linear light of these primaries in that of sRGB. Source: SMPTE RP 177 on the chromaticities of BT.2020 and P3-D65.
TO_SRGB = {
    9: [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    11: [[1.1576, -0.1550, -0.0026], [-0.0416, 1.0456, -0.0040], [-0.0180, -0.0785, 1.0965]],
    12: [[1.2249, -0.2247, -0.0002], [-0.0420, 1.0419, 0.0001], [-0.0197, -0.0786, 1.0983]],
}
WHITE_NITS = 203.0  # what BT.2408 calls reference white; in HLG it is at 75 % of the signal
KNEE = 0.75  # of white: what is darker stays as it is, what is brighter is pressed together
GRID = 65  # points a side of the table


def matrix_of(frame: av.VideoFrame) -> Colorspace | None:
    """The matrix from which a frame that names none is to be read; None where it names one, or is RGB.

    Below 720 lines (and 1280 columns) that is BT.601, from there on BT.709: what Chromium and mpv do, and what ffmpeg
    and imageio leave untagged when they encode from RGB.
    """
    if frame.colorspace != UNKNOWN or frame.format.is_rgb:
        return None
    if frame.color_trc in (PQ, HLG):
        return Colorspace.BT2020
    if frame.color_primaries in BY_PRIMARIES:
        return BY_PRIMARIES[frame.color_primaries]
    return Colorspace.ITU709 if frame.width >= HD[0] or frame.height >= HD[1] else Colorspace.ITU601


def check_matrix(frame: av.VideoFrame, path: object) -> None:
    if frame.colorspace not in (*MATRICES, UNKNOWN):
        problem = f"has colours of a kind that is not read (matrix {int(frame.colorspace)} of H.273)"
        raise InvalidInput("video", path, problem, "save it as BT.709 first")


def is_high_range(frame: av.VideoFrame) -> bool:
    return frame.color_trc in (PQ, HLG)


def table_for(frame: av.VideoFrame) -> ImageFilter.Color3DLUT | None:
    """From the frame's colours to sRGB; None where they are near enough, as those of BT.601 and BT.709 are."""
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    if transfer in (PQ, HLG) and primaries == UNKNOWN:
        primaries = BT2020
    if transfer not in (PQ, HLG) and primaries not in TO_SRGB:
        return None
    return table(transfer, primaries)


@cache
def table(transfer: int, primaries: int) -> ImageFilter.Color3DLUT:
    scale = np.linspace(0, 1, GRID)
    blue, green, red = np.meshgrid(scale, scale, scale, indexing="ij")  # red runs fastest
    linear = linear_light(np.stack([red, green, blue], -1), transfer)
    linear = np.maximum(linear @ np.array(TO_SRGB.get(primaries, np.eye(3))).T, 0)
    if transfer in (PQ, HLG):
        linear = toned(linear)
    return ImageFilter.Color3DLUT(GRID, srgb_signal(linear).astype(np.float32).ravel(), target_mode="RGB")


def converted(frame: Frame, lut: ImageFilter.Color3DLUT) -> Frame:
    return np.asarray(Image.fromarray(frame).filter(lut))


def linear_light(signal: Colours, transfer: int) -> Colours:
    """Light from the signal, 1 for reference white. PQ is defined as light of the screen. HLG is taken as light of the
    scene, which gives back the colours of material for usual screens that was converted to it. Source: BT.2100."""
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        root = signal ** (1 / m2)
        return 10_000 / WHITE_NITS * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    if transfer == HLG:
        return hybrid_log_gamma(signal) / hybrid_log_gamma(np.array([0.75]))[0]
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def hybrid_log_gamma(signal: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def toned(linear: Colours) -> Colours:
    """Brighter than white pressed into what is left over the knee; the hue stays."""
    brightest = np.maximum(linear.max(-1, keepdims=True), 1e-9)
    over = np.maximum(brightest - KNEE, 0) / (1 - KNEE)
    pressed = np.where(brightest <= KNEE, brightest, KNEE + (1 - KNEE) * np.tanh(over))
    return linear * (pressed / brightest)


def srgb_signal(linear: Colours) -> Colours:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
