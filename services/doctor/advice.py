"""The commands that fixes are made of, by system. Each is what its maker documents; none is ever run by us."""

from __future__ import annotations

from services.doctor.readings import Machine

# The newest of branch 580 that NVIDIA's list of current releases named (forum thread 28500, February 2026).
DRIVER_580 = "580.126.18"
DRIVER_SOURCE = "NVIDIA, list of current Unix driver releases"


def install_driver_580(machine: Machine) -> str:
    """Branch 580 in the flavour that drives every card since Maxwell (the proprietary modules)."""
    if machine.os_id == "hiveos":
        return f"sudo nvidia-driver-update {DRIVER_580} && sudo reboot"
    if machine.os_id == "ubuntu":
        return "sudo apt-get update && sudo apt-get install -y nvidia-driver-580 && sudo reboot"
    return f"sudo sh ./NVIDIA-Linux-x86_64-{DRIVER_580}.run --kernel-module-type=proprietary && sudo reboot"


def where_driver_is_from(machine: Machine) -> str:
    """What must be at hand before `install_driver_580` can work."""
    if machine.os_id in ("hiveos", "ubuntu"):
        return "Stop the stack first."
    return f"Stop the stack first. The .run file of {DRIVER_580} is on NVIDIA's driver page; its module is built with the kernel's headers."


def install(machine: Machine, package: str) -> str:
    """Installing or updating a package of the distribution's (or of a repository that was added to it)."""
    if machine.os_id in ("fedora", "rhel", "centos", "rocky", "almalinux"):
        return f"sudo dnf install -y {package}"
    return f"sudo apt-get update && sudo apt-get install -y {package}"


TOOLKIT = "nvidia-container-toolkit"
TOOLKIT_REPOSITORY = "The package is in NVIDIA's own repository; its install guide says how to add that."
CONFIGURE_DOCKER = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
WRITE_CDI = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
