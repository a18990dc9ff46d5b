//! Which addresses may be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The environment variable with addresses that are allowed all the same, separated by commas.
pub const ALLOWED_VARIABLE: &str = "CORPUSMITH_ALLOWED_ADDRESSES";

/// Where clouds hand out credentials outside the link-local block: Alibaba, Oracle, and Amazon over IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// The addresses that may be reached.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Vec<IpAddr>);

impl Allowed {
    /// The usual ones, and those of [`ALLOWED_VARIABLE`].
    pub fn from_environment() -> Self {
        Self::parse(&std::env::var(ALLOWED_VARIABLE).unwrap_or_default())
    }

    /// The usual ones, and those of a list.
    pub fn parse(list: &str) -> Self {
        Self(list.split(',').filter_map(|text| text.trim().parse().ok()).collect())
    }

    /// Whether an address may be reached.
    pub fn admits(&self, address: IpAddr) -> bool {
        let real = unwrapped(address);
        self.0.contains(&address) || self.0.contains(&real) || !is_forbidden(real)
    }
}

/// The address inside those that carry an IPv4 one: mapped, translated (NAT64), tunnelled (6to4).
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(outer) = address else {
        return address;
    };
    let inner = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match outer.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        [0x2002, high, low, ..] => inner(high, low),
        // `::a.b.c.d` is an old form, but `::` and `::1` are none of it.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => inner(high, low),
        _ => address,
    }
}

fn is_forbidden(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
    };
    local || METADATA.contains(&address)
}
