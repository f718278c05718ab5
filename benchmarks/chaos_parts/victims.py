"""Who may be struck: the living processes of a role, by what the run's own status says of its actors.

Owns the choice; only processes that are known to be the run's are ever given. Called by the campaign.
"""

from benchmarks.chaos_parts.processes import Kin, Process
from benchmarks.chaos_parts.schedule import Role
from benchmarks.chaos_parts.sight import Status, actors_of

ENGINE_TITLE = "EngineCore"


def victims(role: Role, status: Status | None, kin: Kin, *, driver: int) -> list[tuple[str, Process]]:
    """(replica, process) of everybody of a role, in a fixed order; only processes that are known to be the run's."""
    living = kin.living()
    if role is Role.DRIVER:
        return [("driver", living[driver])] if driver in living else []
    above = {Role.ENGINE: "generator", Role.SANDBOX: "verifier"}.get(role)
    actors = sorted((a for a in actors_of(status or {}) if a.role == (above or role) and a.pid in living), key=lambda a: a.replica)
    if above is None:
        return [(actor.replica, living[actor.pid]) for actor in actors]
    found = [(actor.replica, process) for actor in actors for process in kin.below(actor.pid)]
    return [(replica, process) for replica, process in found if role is Role.SANDBOX or ENGINE_TITLE in process.title]
