"""Public addresses, which may be connected to, and others."""

from ipaddress import ip_address

import pytest

from mgm.serve.worker.public_addresses import is_public

PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "126.255.255.255"),
    *("172.15.0.1", "172.32.0.1", "192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.255"),
    *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001:800::200e", "2620:fe::fe"),
)
SPECIAL = (
    # IPv4
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200"),
    *("127.0.0.1", "127.1.2.3", "168.63.129.16", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    # IPv6 addresses of a machine, a link or a site
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    # IPv4 within IPv6, private and public: not needed by any host
    *("::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"),
    *("::ffff:0:10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::8.8.8.8"),
    *("64:ff9b:1::1", "64:ff9b:1:ffff::10.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    *("2002:808:808::1", "2001::1", "2001:0:7f00:1::", "2001:0:53aa:64c:0:fbff:f5ff:fffe"),
    # reserved, documentation, benchmarks
    *("2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3ffe::1", "3fff::1", "5f00::1"),
    *("100::1", "4000::1", "2606:4700:4700::1111%eth0"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", SPECIAL)
def test_not_public(address):
    assert not is_public(ip_address(address))
