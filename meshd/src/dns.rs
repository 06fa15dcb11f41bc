//! Name service of one network: hickory answers its ports from the names snapshot and forwards the rest.
//!
//! ```text
//!   question from a port --> ours? --yes--> names snapshot (NXDOMAIN for other networks' names)
//!                              | no
//!                              +--> upstream resolver of this host, bounded
//! ```
//!
//! Owns the mapping between DNS and [`Names`]. Refuses zone transfers, updates and all but one question a message. It
//! opens no socket: `service.rs` brings those, bound inside the network.

use arc_swap::ArcSwap;
use hickory_proto::op::{Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use meshd_core::code::ErrorCode;
use meshd_core::ident::Vni;
use meshd_core::names::{NameAnswer, NameKind, Names, SERVICE_NAME};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The current names; swapped by the driver, read by every network's service.
pub(crate) type NamesHandle = Arc<ArcSwap<Names>>;

/// Questions that may wait for an upstream at once, over all networks; more are refused.
const FORWARDS_MAX: usize = 64;
/// Of them those of one source, so that it cannot leave the others none.
const FORWARDS_OF_ONE: usize = 8;
/// An upstream that takes longer has not answered.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(4);
/// Seconds that an answer about the mesh may be kept.
const TTL_S: u32 = meshd_core::names::TTL_S;

/// Where questions go that are not about the mesh. Shared by all networks of the node.
#[derive(Clone)]
pub(crate) struct Forwarder {
    resolver: Option<Arc<TokioResolver>>,
    permits: Arc<Semaphore>,
    shares: Shares,
}

/// A network, and an address in it.
type Source = (Vni, IpAddr);

/// Who has how many questions under way. Only sources that have some are in it, and each has a permit: no more than
/// [`FORWARDS_MAX`].
#[derive(Clone, Default)]
struct Shares(Arc<Mutex<BTreeMap<Source, usize>>>);

/// One question under way; gives its place back.
struct Share {
    of: Shares,
    source: Source,
}

impl Shares {
    /// `None` if the source has as many as it may.
    fn take(&self, source: Source) -> Option<Share> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(source).or_default();
        if *count >= FORWARDS_OF_ONE {
            return None;
        }
        *count += 1;
        drop(held);
        let of = self.clone();
        Some(Share { of, source })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

impl Forwarder {
    /// The given upstreams, or those of `/etc/resolv.conf` if there are none. Without any, foreign questions are refused.
    pub(crate) fn new(upstream: &[SocketAddr]) -> Self {
        let built = if upstream.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let servers = upstream.iter().map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                server
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            Ok(TokioResolver::builder_with_config(
                config,
                Default::default(),
            ))
        };
        let resolver = built.and_then(|mut builder| {
            let options = builder.options_mut();
            options.ndots = 0;
            options.cache_size = 1024;
            options.attempts = 2;
            options.timeout = Duration::from_secs(2);
            // The host's own hosts file is not the containers' business.
            options.use_hosts_file = ResolveHosts::Never;
            builder.build()
        });
        let resolver = match resolver {
            Ok(resolver) => Some(Arc::new(resolver)),
            Err(error) => {
                tracing::warn!(code = %ErrorCode::DnsNoUpstream, %error, "no upstream name server: names outside the mesh will be refused; set [dns] upstream");
                None
            }
        };
        Self {
            resolver,
            permits: Arc::new(Semaphore::new(FORWARDS_MAX)),
            shares: Shares::default(),
        }
    }

    async fn ask(
        &self,
        source: Source,
        name: Name,
        kind: RecordType,
    ) -> (ResponseCode, Vec<Record>) {
        let refused = (ResponseCode::Refused, Vec::new());
        let (Some(resolver), Ok(_permit)) = (&self.resolver, self.permits.try_acquire()) else {
            return refused;
        };
        let Some(_share) = self.shares.take(source) else {
            return refused;
        };
        match tokio::time::timeout(FORWARD_TIMEOUT, resolver.lookup(name, kind)).await {
            Ok(Ok(found)) => (ResponseCode::NoError, found.answers().to_vec()),
            Ok(Err(error)) if error.is_nx_domain() => (ResponseCode::NXDomain, Vec::new()),
            Ok(Err(error)) if error.is_no_records_found() => (ResponseCode::NoError, Vec::new()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "upstream name server failed");
                (ResponseCode::ServFail, Vec::new())
            }
            Err(_) => (ResponseCode::ServFail, Vec::new()),
        }
    }
}

/// Answers the ports of one network.
pub(crate) struct NameService {
    vni: Vni,
    /// `meshd.<network>.<mesh domain>`: who answers.
    server: Name,
    names: NamesHandle,
    forward: Forwarder,
}

/// What goes back: code, whether we speak with authority, answers.
struct Answered {
    code: ResponseCode,
    ours: bool,
    records: Vec<Record>,
    /// The zone of ours that was asked about.
    apex: Option<Name>,
}

impl NameService {
    /// A service for network `vni`, whose names end in `domain`.
    pub(crate) fn new(vni: Vni, domain: &str, names: NamesHandle, forward: Forwarder) -> Self {
        let server = Name::from_str(&format!("{SERVICE_NAME}.{domain}"));
        Self {
            vni,
            server: server.map(fqdn).unwrap_or_else(|_| Name::root()),
            names,
            forward,
        }
    }

    async fn answer(&self, request: &Request) -> Answered {
        let refuse = |code| Answered {
            code,
            ours: false,
            records: Vec::new(),
            apex: None,
        };
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::Refused);
        }
        let Ok(info) = request.request_info() else {
            return refuse(ResponseCode::FormErr);
        };
        let kind = info.query.query_type();
        if info.query.query_class() != DNSClass::IN
            || matches!(kind, RecordType::AXFR | RecordType::IXFR | RecordType::ANY)
        {
            return refuse(ResponseCode::Refused);
        }
        let name = fqdn(Name::from(info.query.name()));
        let wanted = match kind {
            RecordType::A => NameKind::V4,
            RecordType::AAAA => NameKind::V6,
            RecordType::PTR => NameKind::Reverse,
            _ => NameKind::Other,
        };
        let text = name.to_lowercase().to_ascii();
        let text = text.trim_end_matches('.');
        let names = self.names.load();
        let answer = names.lookup(self.vni, text, wanted);
        let apex = names.apex(self.vni, text);
        drop(names);
        let apex = apex.and_then(|apex| Name::from_str(&apex).map(fqdn).ok());
        let ours = |code, data: Vec<RData>| Answered {
            code,
            ours: true,
            apex: apex.clone(),
            records: data
                .into_iter()
                .map(|data| Record::from_rdata(name.clone(), TTL_S, data))
                .collect(),
        };
        match answer {
            NameAnswer::Addresses(ips) => ours(
                ResponseCode::NoError,
                ips.into_iter().map(address_data).collect(),
            ),
            NameAnswer::Name(target) => match Name::from_str(&target) {
                Ok(target) => ours(ResponseCode::NoError, vec![RData::PTR(PTR(fqdn(target)))]),
                Err(_) => ours(ResponseCode::ServFail, Vec::new()),
            },
            NameAnswer::NoData if apex.as_ref() == Some(&name) && kind == RecordType::SOA => {
                ours(ResponseCode::NoError, vec![RData::SOA(self.soa())])
            }
            NameAnswer::NoData if apex.as_ref() == Some(&name) && kind == RecordType::NS => ours(
                ResponseCode::NoError,
                vec![RData::NS(NS(self.server.clone()))],
            ),
            NameAnswer::NoData => ours(ResponseCode::NoError, Vec::new()),
            NameAnswer::NoSuchName => ours(ResponseCode::NXDomain, Vec::new()),
            NameAnswer::NotOurs if !request.metadata.recursion_desired => {
                refuse(ResponseCode::Refused)
            }
            NameAnswer::NotOurs => {
                let source = (self.vni, request.src().ip());
                let (code, records) = self.forward.ask(source, name, kind).await;
                Answered {
                    code,
                    ours: false,
                    records,
                    apex: None,
                }
            }
        }
    }

    /// Negative answers carry it, so that resolvers know how long to believe them (RFC 2308 §3).
    fn soa(&self) -> SOA {
        let ttl = i32::try_from(TTL_S).unwrap_or(5);
        let server = self.server.clone();
        SOA::new(server.clone(), server, 1, ttl, ttl, ttl, TTL_S)
    }
}

fn fqdn(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

#[async_trait::async_trait]
impl RequestHandler for NameService {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut back: R,
    ) -> ResponseInfo {
        let answered = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answered.code;
        metadata.authoritative = answered.ours;
        metadata.recursion_available = true;
        let apex = answered.apex.filter(|_| answered.records.is_empty());
        let soa = apex.map(|apex| Record::from_rdata(apex, TTL_S, RData::SOA(self.soa())));
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            answered.records.iter(),
            std::iter::empty(),
            soa.iter(),
            std::iter::empty(),
        );
        back.send_response(response).await.unwrap_or_else(|error| {
            tracing::debug!(%error, to = %request.src(), "name service could not answer");
            Header {
                metadata,
                counts: HeaderCounts::default(),
            }
            .into()
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_all_and_who_asks_nothing_takes_no_memory() {
        let shares = Shares::default();
        let source = |vni, n| (Vni::new(vni).unwrap(), IpAddr::from([10, 0, 0, n]));
        let mut held: Vec<Share> = (0..FORWARDS_MAX)
            .filter_map(|_| shares.take(source(7, 1)))
            .collect();
        assert_eq!(held.len(), FORWARDS_OF_ONE);
        // Another one has its own share, and so has the same address in another network.
        held.extend([source(7, 2), source(8, 1)].map(|source| shares.take(source).unwrap()));
        held.remove(0);
        held.push(shares.take(source(7, 1)).unwrap());
        assert!(shares.take(source(7, 1)).is_none());
        assert_eq!(shares.0.lock().unwrap().len(), 3);
        drop(held);
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
