"""Rules on drivers: does every card answer, is the branch right for it, and can it start the images that it gets."""

from __future__ import annotations

from collections.abc import Iterator

from services.doctor.advice import install_driver_580, where_driver_is_from
from services.doctor.case import MAXWELL, Board, Case, boards, branch_of, cards_of, driver_version, is_legacy, on_card
from services.doctor.finding import HOST, Finding, Severity, on_host
from services.doctor.readings import KernelLog, Unread
from services.hardware.pci import NVIDIA, of_vendor
from services.sizing.cards import spec_of
from services.sizing.engine_table import capability_of, kind_of
from services.sizing.engines import CUDA12_DRIVER, CUDA13_DRIVER
from services.sizing.types import Card

LAST_LEGACY_BRANCH = 580
PTX_DRIVER = 570  # the first branch that knows CUDA 12.8's PTX
BRANCH_SOURCE = "NVIDIA's Unix deprecation notice; driver 595 says so itself in the kernel log (NixOS/nixos-hardware#1880)"
CUDA_SOURCE = "docs.nvidia.com, CUDA compatibility: CUDA 13 needs driver 580, CUDA 12 needs 525"
PTX_SOURCE = "canonical/inference-snaps#255: a GTX 1080 Ti runs on driver 580 and fails on 535; llama.cpp's CMake list of architectures"
_OPEN_SOURCE = "NVIDIA/open-gpu-kernel-modules#19: the open modules need the GSP, which came with Turing"


def cards_answer(case: Case) -> Iterator[Finding]:
    """1. The drivers hang: error. 2. No card anywhere: note. 3. Each sentence of `detect` on a card that doesn't answer: error, unless the
    driver's branch (next rule) is the reason. 4. Each card that answers: ok."""
    found = case.readings.cards
    # 1
    if isinstance(found, Unread):
        yield on_host(
            Severity.ERROR,
            found.why,
            "A driver that hangs has usually lost a card; nothing can start on it.",
            "NVIDIA/open-gpu-kernel-modules#507",
            "sudo dmesg | grep -iE 'xid|fallen off' ; sudo reboot",
            "If it comes back: the riser or power cable of the card that the kernel log names.",
        )
        return
    # 2
    if not found.cards and not case.readings.bus:
        yield on_host(
            Severity.NOTE,
            "no GPU: none on the PCI bus, no driver lists one",
            "rigserve serves its built-in models on one simulated CPU card then.",
            advice="If there are cards in this machine: check risers and power, and that this is not a container or VM without them.",
        )
    # 3
    dropped = {board.address for board in boards(case) if board.card is None and _is_dropped(board, case)}
    for note in found.notes:
        all_explained = dropped and not found.cards and len(dropped) == len(of_vendor(case.readings.bus, NVIDIA))
        if "none found" in note or any(address and address in note for address in dropped) or (all_explained and note.startswith("NVIDIA")):
            continue
        board = next((one for one in boards(case) if one.address and one.address in note), None)
        yield Finding(
            Severity.ERROR,
            board.subject if board else HOST,
            board.name if board else HOST,
            note,
            "A card that doesn't answer its driver serves nothing.",
            "this machine's driver",
            "sudo dmesg | grep -iE 'nvrm|amdgpu|xid'",
        )
    # 4
    for card in found.cards:
        yield on_card(Severity.OK, card, "answers its driver")


def _is_dropped(board: Board, case: Case) -> bool:
    branch = branch_of(driver_version(case))
    return is_legacy(board) and branch is not None and branch > LAST_LEGACY_BRANCH


def driver_branch(case: Case) -> Iterator[Finding]:
    """For each NVIDIA card: 0. older than Maxwell: note. 1. Version unknown: unknown. 2. A branch after 580, and Maxwell, Pascal or
    Volta: error.
    3. Older than CUDA 12's 525: error. 4. Older than 580: warning. 5. A card in no table that doesn't answer: unknown. 6. Else ok."""
    version, machine = driver_version(case), case.readings.machine
    branch = branch_of(version)
    fix, first = install_driver_580(machine), where_driver_is_from(machine)
    for board in boards(case):
        # 0
        if board.capability is not None and board.capability < MAXWELL:
            yield _on_board(Severity.NOTE, board, "older than Maxwell: no engine of rigserve has kernels for it")
        # 1
        elif branch is None:
            yield _on_board(
                Severity.UNKNOWN,
                board,
                "no NVIDIA driver version: none is loaded, and modinfo knows none",
                "Without its driver the card can't be used.",
                BRANCH_SOURCE,
                fix,
                first,
            )
        # 2
        elif _is_dropped(board, case):
            yield _on_board(
                Severity.ERROR,
                board,
                f"driver {version}; {_generation(board)} ends with branch {LAST_LEGACY_BRANCH}",
                f"Branches after {LAST_LEGACY_BRANCH} ignore Maxwell, Pascal and Volta cards; {LAST_LEGACY_BRANCH} drives the newer cards "
                "of this rig.",
                BRANCH_SOURCE,
                fix,
                first,
            )
        # 3, 4
        elif branch < CUDA13_DRIVER:
            severity = Severity.ERROR if branch < CUDA12_DRIVER else Severity.WARNING
            yield _on_board(
                severity,
                board,
                f"driver {version}, older than {CUDA13_DRIVER}",
                f"CUDA 13 images need {CUDA13_DRIVER}, CUDA 12 images {CUDA12_DRIVER}. {LAST_LEGACY_BRANCH} is a long-term branch and "
                "drives every card from Maxwell on.",
                CUDA_SOURCE,
                fix,
                first,
            )
        # 5
        elif board.card is None and board.capability is None:
            yield _on_board(
                Severity.UNKNOWN,
                board,
                f"driver {version}; the card is in no table and doesn't answer",
                f"If it is older than Turing it needs branch {LAST_LEGACY_BRANCH}.",
                BRANCH_SOURCE,
            )
        # 6
        else:
            yield _on_board(Severity.OK, board, f"driver {version} drives {_generation(board)}")


def _on_board(
    severity: Severity, board: Board, seen: str, why: str = "", source: str = "", fix: str | None = None, advice: str = ""
) -> Finding:
    return Finding(severity, board.subject, board.name, seen, why, source, fix, advice)


def _generation(board: Board) -> str:
    if board.capability is None:
        return "this card"
    names = (((7, 5), "Volta" if board.capability >= (7, 0) else "Pascal"), ((8, 0), "Turing"), ((8, 9), "Ampere"))
    name = next((name for below, name in names if board.capability < below), "Ada or newer")
    return f"{'Maxwell' if board.capability < (6, 0) else name} (compute {board.capability[0]}.{board.capability[1]})"


def open_modules(case: Case) -> Iterator[Finding]:
    """NVIDIA's open kernel modules with a card older than Turing: error."""
    log = case.readings.log
    said = next((text for text in log.ignored_gpus if "open nvidia" in text), None) if isinstance(log, KernelLog) else None
    old = [board for board in boards(case) if is_legacy(board)]
    if not old or not (case.readings.driver.open_modules or said):
        return
    machine = case.readings.machine
    for board in old:
        yield _on_board(
            Severity.ERROR,
            board,
            said or "the open flavour of NVIDIA's kernel modules is loaded",
            "The open modules drive Turing and later only; this card needs the proprietary ones.",
            _OPEN_SOURCE,
            install_driver_580(machine),
            where_driver_is_from(machine),
        )


def nouveau(case: Case) -> Iterator[Finding]:
    """An NVIDIA card bound to nouveau: error."""
    for device in of_vendor(case.readings.bus, NVIDIA):
        if device.driver == "nouveau":
            yield Finding(
                Severity.ERROR,
                device.address,
                f"NVIDIA card {device.device_id} ({device.address})",
                "is bound to nouveau, the free driver",
                "nouveau has no CUDA, and NVIDIA's driver can't take a card that nouveau holds.",
                "NVIDIA driver README, known problems",
                "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' | sudo tee /etc/modprobe.d/blacklist-nouveau.conf\n"
                "sudo update-initramfs -u && sudo reboot",
            )


def images_start(case: Case) -> Iterator[Finding]:
    """For each NVIDIA card and each engine environment it gets (the plan's, else what the engine table gives it):
    1. The driver is older than its CUDA needs: error in a plan, else warning (rigserve falls back to CUDA 12 where it can).
    2. Its kernels for this card are PTX only and the driver is older than CUDA 12.8's: error before Turing (seen there), else warning.
    3. Else ok."""
    for card in cards_of(case):
        branch = branch_of(card.driver_version)
        if card.vendor != "nvidia" or branch is None:
            continue
        planned = _planned(case, card)
        environments = planned or _usual(card)
        too_new = [name for name in environments if branch < _floor(name)]
        fix = install_driver_580(case.readings.machine)
        # 1
        if too_new:
            yield on_card(
                Severity.ERROR if planned else Severity.WARNING,
                card,
                f"driver {card.driver_version} can't start {', '.join(too_new)} (needs {max(_floor(name) for name in too_new)})",
                'The container ends at once with "unsatisfied condition: cuda>=...".'
                if planned
                else "rigserve plans the CUDA 12 builds of llama.cpp and PyTorch instead, and no vLLM.",
                CUDA_SOURCE,
                fix,
            )
        # 2
        if branch < PTX_DRIVER and _runs_ptx(card) and ("llamacpp-cuda12" in environments or too_new):
            old = (capability_of(card, spec_of(card)) or (0, 0)) < (7, 5)
            yield on_card(
                Severity.ERROR if old else Severity.WARNING,
                card,
                f"driver {card.driver_version}; llama.cpp's CUDA 12 build holds only PTX for this card",
                f"PTX made by CUDA 12.8 is compiled by the driver; before {PTX_DRIVER} it can't: \"device kernel "
                'image is invalid" or "provided PTX was compiled with an unsupported toolchain".',
                PTX_SOURCE,
                fix,
            )
        # 3
        elif not too_new and environments:
            yield on_card(Severity.OK, card, f"driver {card.driver_version} starts {', '.join(environments)}")


def _planned(case: Case, card: Card) -> tuple[str, ...]:
    placements = case.plan.placements if case.plan else ()
    return tuple(dict.fromkeys(one.choice.environment for one in placements if one.card_id == card.id))


def _usual(card: Card) -> tuple[str, ...]:
    kind = kind_of(card, spec_of(card))
    choices = (kind.vllm, kind.llamacpp, kind.diffusion) if kind else ()
    return tuple(choice.environment for choice in choices if choice)


def _floor(environment: str) -> int:
    """The oldest driver branch that starts an environment's CUDA; 0 where it has none (Vulkan, CPU)."""
    if environment.endswith(("cuda12", "cu126")):
        return CUDA12_DRIVER
    return CUDA13_DRIVER if environment.endswith(("cuda", "cuda13")) else 0


def _runs_ptx(card: Card) -> bool:
    """llama.cpp's CUDA 12 list is 50, 61, 70, 75, 80 as PTX ("-virtual"), 86 and 89 as machine code."""
    return capability_of(card, spec_of(card)) not in (None, (8, 6), (8, 9))
