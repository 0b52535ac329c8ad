"""Large pools are split."""

from __future__ import annotations

import zkmig

HOSTS_MAX = 2


@zkmig.migration(epoch=1, scope="prod")
def split_pools(tree: zkmig.Draft) -> None:
    """Pools of more than two hosts become two, and services that were served by one name both."""
    split: dict[str, list[str]] = {}
    for path, names in tree.find("/app/pools/{pool}"):
        hosts = tree.get_json(path)["hosts"]
        if len(hosts) <= HOSTS_MAX:
            continue
        half = len(hosts) // 2
        acl = tree.acl(path)
        split[names["pool"]] = [f"{names['pool']}-a", f"{names['pool']}-b"]
        for name, part in zip(split[names["pool"]], (hosts[:half], hosts[half:]), strict=True):
            tree.create(f"/app/pools/{name}", b"", acl)
            tree.set_json(f"/app/pools/{name}", {"hosts": part})
        tree.delete(path)
    for path, _ in tree.find("/app/services/{service}/pools"):
        pools = tree.get_json(path)
        tree.set_json(path, [new for pool in pools for new in split.get(pool, [pool])])
