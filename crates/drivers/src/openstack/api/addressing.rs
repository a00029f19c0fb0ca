//! How a cloud wants a server's addresses to be chosen and made: what clouds.yaml says of its networks.

/// How a cloud wants addresses to be chosen and made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addressing {
    /// `private: true` in clouds.yaml: the launcher is inside.
    pub private: bool,
    /// `force_ipv4` and its relatives.
    pub force_ipv4: bool,
    /// Whether this host can reach IPv6 addresses.
    pub local_ipv6: bool,
    /// The network marked `default_interface` in clouds.yaml.
    pub default_network: Option<String>,
    /// What clouds.yaml says of networks.
    pub networks: Vec<CloudNetwork>,
    /// Who gives floating IPs.
    pub floating_ip_source: FloatingIpSource,
}

/// An entry of a cloud's `networks` (`openstacksdk: config/loader.py _fix_backwards_networks`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // as many as the SDK has
pub(crate) struct CloudNetwork {
    /// Name or id.
    pub name: String,
    /// IPv4 addresses on it are reachable from outside.
    pub routes_ipv4_externally: bool,
    /// The same for IPv6.
    pub routes_ipv6_externally: bool,
    /// Floating IPs come from it.
    pub nat_source: bool,
    /// Floating IPs lead to it.
    pub nat_destination: bool,
    /// Servers are reached on it.
    pub default_interface: bool,
}

/// Which service gives floating IPs (`floating_ip_source`; the SDK's default is Neutron).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FloatingIpSource {
    #[default]
    Neutron,
    Nova,
    None,
}
