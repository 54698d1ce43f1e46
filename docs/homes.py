"""For the reference: each object is shown in the module that it is written in, and only there."""

from typing import Any

import griffe


class Homes(griffe.Extension):
    """Takes what a package passes on from its modules out of what is shown of the package."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Goes through all packages once everything is loaded."""
        del kwargs
        for name, member in list(pkg.members.items()):
            if member.is_alias:
                pkg.del_member(name)
            elif member.is_module and member.is_init_module:
                self.on_package(pkg=member)
