"""SSRF protection: image URLs of clients are fetched from public IP addresses only.

The lists are explicit, since `is_global` of `ipaddress` differs between versions of Python, and is
true for IPv6 transition addresses, whatever IPv4 address they contain.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# IANA's special-purpose registries (RFC 6890 and its updates), multicast, and what was reserved.
_SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network"
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; metadata of some clouds
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a virtual host of Azure, reachable from its machines only
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

# Global unicast addresses start with the bits 001. That excludes loopback,
# IPv4-compatible (::a.b.c.d), -mapped (::ffff:a.b.c.d) and -translated (::ffff:0:a.b.c.d) ones,
# NAT64 (64:ff9b::/96 and 64:ff9b:1::/48), unique local (fc00::/7), link-local (fe80::/10),
# site-local (fec0::/10) and multicast (ff00::/8) ones.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_SPECIAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments, with Teredo (2001::/32)
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is public, and contains no other address that is not.

    Args:
        address: IP address; one with a zone (`%eth0`) is not public.
    """
    if isinstance(address, IPv4Address):
        special = any(address in network for network in _SPECIAL_IPV4)
    else:
        special = (
            address.scope_id is not None
            or address not in _GLOBAL_IPV6
            or any(address in network for network in _SPECIAL_IPV6)
        )
    return not special and address.is_global
