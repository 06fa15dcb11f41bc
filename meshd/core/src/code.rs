//! Codes of errors: one stable word for each fault that a user can meet, and its kind.
//!
//! ```text
//!   ErrorCode  address-taken   in the API's body, in `--json`, in the log's field `code`, behind `error[…]`
//!      |
//!      +-> RefusalKind  conflict   what a program does about it; the HTTP status is made of it
//! ```
//!
//! Owns the list. A refusal is made with a code, and its kind follows: there is no error without one. What each means to people
//! is in `meshd/src/cli/explain/codes.toml`; a test there compares both. A word is never given another meaning, and one that is
//! not used any more is not used again.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What kind of refusal it is, with the HTTP status that it has: `not-found` 404, `conflict` 409, `forbidden` 403, `invalid` 400
/// (405 for a method that a path does not take), `unauthorized` 401, `too-many` 429, `unavailable` 503, `failed` 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum RefusalKind {
    /// What was named is not there.
    NotFound,
    /// It cannot be as things are.
    Conflict,
    /// Whoever asks may not.
    Forbidden,
    /// It cannot be, whoever asks and whenever.
    Invalid,
    /// Over TCP: no token, or a wrong one.
    Unauthorized,
    /// More requests than are taken in the time.
    TooMany,
    /// Not at the moment; later it may be.
    Unavailable,
    /// It was tried and did not work.
    Failed,
}

impl RefusalKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Invalid,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::TooMany,
        Self::Failed,
        Self::Unavailable,
    ];

    /// As JSON has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::Unauthorized => "unauthorized",
            Self::TooMany => "too-many",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }

    /// The kind that a word stands for, if this release has it.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// What it means, in a sentence.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::NotFound => "what was named is not there",
            Self::Conflict => "it cannot be as things are: somebody has it, or uses it",
            Self::Forbidden => "whoever asks may not",
            Self::Invalid => "it cannot be, whoever asks and whenever",
            Self::Unauthorized => "over TCP: there was no token, or a wrong one",
            Self::TooMany => "more requests than are taken in the time",
            Self::Unavailable => "not at the moment; asked later it may be done",
            Self::Failed => "it was tried and did not work, on this host",
        }
    }
}

macro_rules! codes {
    ($($kind:ident { $($name:ident $word:literal,)+ })+) => {
        /// One fault that a user can meet. JSON has its word; `meshd explain WORD` says what it means and what to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "codes.toml has a paragraph for each, and a test that compares")]
        pub enum ErrorCode { $($($name,)+)+ }

        impl ErrorCode {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$name,)+)+];

            /// The word that stands for it, everywhere and for ever.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($(Self::$name => $word,)+)+ }
            }

            /// What kind of refusal it makes.
            #[must_use]
            pub const fn kind(self) -> RefusalKind {
                match self { $($(Self::$name)|+ => RefusalKind::$kind,)+ }
            }
        }
    };
}

codes! {
    NotFound {
        NetworkUnknown "network-unknown",
        VtepUnknown "vtep-unknown",
        MemberUnknown "member-unknown",
        PortUnknown "port-unknown",
        DeviceUnknown "device-unknown",
        DockerNetworkUnknown "docker-network-unknown",
        DockerEndpointUnknown "docker-endpoint-unknown",
        PeerUnknown "peer-unknown",
        EndpointUnknown "endpoint-unknown",
        SubjectUnknown "subject-unknown",
        PathUnknown "path-unknown",
        CodeUnknown "code-unknown",
        PluginUnknown "plugin-unknown",
        PluginNotAttached "plugin-not-attached",
        PluginVersionUnknown "plugin-version-unknown",
        PluginNoShadow "plugin-no-shadow",
        PluginNoController "plugin-no-controller",
        PluginSourceUnknown "plugin-source-unknown",
        NetnsMissing "netns-missing",
        InterfaceMissing "interface-missing",
        ApiPrincipalUnknown "api-principal-unknown",
    }
    Conflict {
        NetworkExists "network-exists",
        NetworkInUse "network-in-use",
        VniTaken "vni-taken",
        AddressTaken "address-taken",
        AddressReserved "address-reserved",
        AddressNoneFree "address-none-free",
        MacTaken "mac-taken",
        NameTaken "name-taken",
        OwnerTaken "owner-taken",
        InterfaceTaken "interface-taken",
        BridgeTaken "bridge-taken",
        PortDiffers "port-differs",
        DeviceInFile "device-in-file",
        DeviceInUse "device-in-use",
        DeviceConflict "device-conflict",
        PortAmbiguous "port-ambiguous",
        MadeAndGone "made-and-gone",
        MacConflict "mac-conflict",
        AddressConflict "address-conflict",
        NameConflict "name-conflict",
        NetworkConflict "network-conflict",
        MemberAlready "member-already",
        MemberOfAnother "member-of-another",
        DockerDisabled "docker-disabled",
        DockerNetworkDiffers "docker-network-differs",
        DockerEndpointDiffers "docker-endpoint-differs",
        DockerSubnetDiffers "docker-subnet-differs",
        DockerMtuDiffers "docker-mtu-differs",
        FileForeign "file-foreign",
        PluginBroken "plugin-broken",
        PluginAttached "plugin-attached",
        PluginStage "plugin-stage",
        PluginWorld "plugin-world",
        PluginSteeringTaken "plugin-steering-taken",
        PluginsFull "plugins-full",
        PluginAttachmentsFull "plugin-attachments-full",
        PluginControllersFull "plugin-controllers-full",
        PluginShadowsFull "plugin-shadows-full",
        InterfaceExists "interface-exists",
        DeviceBusy "device-busy",
        DeviceForeign "device-foreign",
        VniTakenHere "vni-taken-here",
        UdpPortTaken "udp-port-taken",
        SocketInUse "socket-in-use",
        StateInUse "state-in-use",
        ApiPortTaken "api-port-taken",
        UnderlayPortTaken "underlay-port-taken",
        MacFlaps "mac-flaps",
        ServiceConflict "service-conflict",
    }
    Forbidden {
        NotAdmin "not-admin",
        NetworkNotOurs "network-not-ours",
        RootKeyElsewhere "root-key-elsewhere",
        RevokeSelf "revoke-self",
        NodeRevoked "node-revoked",
        UserForbidden "user-forbidden",
        TokenReadOnly "token-read-only",
        HostForbidden "host-forbidden",
        OriginForbidden "origin-forbidden",
        SocketForbidden "socket-forbidden",
        InviteUsed "invite-used",
        InviteExpired "invite-expired",
        InviteOtherMesh "invite-other-mesh",
        InviteUnknown "invite-unknown",
        InviteNoRoot "invite-no-root",
        PluginNotGranted "plugin-not-granted",
        PluginUnsigned "plugin-unsigned",
        PluginUntrusted "plugin-untrusted",
        PeerRefused "peer-refused",
        InviteRefused "invite-refused",
    }
    Invalid {
        NetworkNameInvalid "network-name-invalid",
        SubnetInvalid "subnet-invalid",
        SubnetUnknown "subnet-unknown",
        MtuInvalid "mtu-invalid",
        VtepInvalid "vtep-invalid",
        VtepNotTrusted "vtep-not-trusted",
        InviteInvalid "invite-invalid",
        TokenInvalid "token-invalid",
        TokenMistyped "token-mistyped",
        TokenOtherVersion "token-other-version",
        AddressInvalid "address-invalid",
        AddressOutside "address-outside",
        MacInvalid "mac-invalid",
        NameInvalid "name-invalid",
        LabelInvalid "label-invalid",
        RouteInvalid "route-invalid",
        NetnsInvalid "netns-invalid",
        InterfaceNameInvalid "interface-name-invalid",
        UplinkInvalid "uplink-invalid",
        VlanInvalid "vlan-invalid",
        MacvlanInvalid "macvlan-invalid",
        ShareInvalid "share-invalid",
        RequestBodyInvalid "request-body-invalid",
        RequestBodyLarge "request-body-large",
        RequestBodyLate "request-body-late",
        RequestPathInvalid "request-path-invalid",
        RequestQueryInvalid "request-query-invalid",
        MethodNotTaken "method-not-taken",
        TraceInvalid "trace-invalid",
        TraceTooWide "trace-too-wide",
        FilterInvalid "filter-invalid",
        SubjectAmbiguous "subject-ambiguous",
        DropReasonUnknown "drop-reason-unknown",
        LogLevelInvalid "log-level-invalid",
        ConfigUnreadable "config-unreadable",
        ConfigSyntax "config-syntax",
        ConfigUnknownKey "config-unknown-key",
        ConfigValueInvalid "config-value-invalid",
        UsageUnknownCommand "usage-unknown-command",
        UsageUnknownArgument "usage-unknown-argument",
        UsageMissingArgument "usage-missing-argument",
        UsageValueInvalid "usage-value-invalid",
        UsageConflict "usage-conflict",
        FileUnreadable "file-unreadable",
        NoTerminal "no-terminal",
        DeviceInvalid "device-invalid",
        DockerSettingsInvalid "docker-settings-invalid",
        DockerRequestInvalid "docker-request-invalid",
        DockerOptionUnknown "docker-option-unknown",
        DockerOptionInvalid "docker-option-invalid",
        DockerNetworkUnsaid "docker-network-unsaid",
        DockerPublishUnsupported "docker-publish-unsupported",
        CniConfigInvalid "cni-config-invalid",
        CniEnvironmentInvalid "cni-environment-invalid",
        CniVersionUnknown "cni-version-unknown",
        UnitPathInvalid "unit-path-invalid",
        SocketPathInvalid "socket-path-invalid",
        PluginInvalid "plugin-invalid",
        PluginContract "plugin-contract",
        PluginTooHeavy "plugin-too-heavy",
        PluginManifestInvalid "plugin-manifest-invalid",
        PluginSignatureBad "plugin-signature-bad",
        PluginNameInvalid "plugin-name-invalid",
        PluginConfigRefused "plugin-config-refused",
        PluginStateRefused "plugin-state-refused",
        PluginFailsAtOnce "plugin-fails-at-once",
        PluginMeterInvalid "plugin-meter-invalid",
        PluginPlaceInvalid "plugin-place-invalid",
        PluginSteers "plugin-steers",
        PluginNetworkUnclear "plugin-network-unclear",
        PluginKeyInvalid "plugin-key-invalid",
        PluginProjectInvalid "plugin-project-invalid",
        RecordingInvalid "recording-invalid",
    }
    Unauthorized {
        TokenMissing "token-missing",
        TokenWrong "token-wrong",
    }
    TooMany {
        RateLimited "rate-limited",
        InviteGuessing "invite-guessing",
    }
    Unavailable {
        DaemonUnreachable "daemon-unreachable",
        DaemonStopping "daemon-stopping",
        DaemonBrokeOff "daemon-broke-off",
        AnswerLate "answer-late",
        StateUnkept "state-unkept",
        NetworksFull "networks-full",
        VniNoneFree "vni-none-free",
        VtepsFull "vteps-full",
        RevocationsFull "revocations-full",
        InvitesFull "invites-full",
        PortsFull "ports-full",
        PortNumbersUsedUp "port-numbers-used-up",
        PortBusy "port-busy",
        PortWithdrawn "port-withdrawn",
        PortNotReady "port-not-ready",
        AddressPending "address-pending",
        AddressesReservedFull "addresses-reserved-full",
        ConnectionsFull "connections-full",
        FollowersFull "followers-full",
        CapturesFull "captures-full",
        NotAMember "not-a-member",
        InviterUnreachable "inviter-unreachable",
        InviterEnded "inviter-ended",
        InviterOtherVersion "inviter-other-version",
        InviterDistrusted "inviter-distrusted",
        DockerUnreachable "docker-unreachable",
        DockerFull "docker-full",
        PeerSilent "peer-silent",
    }
    Failed {
        Internal "internal",
        RecordRefused "record-refused",
        PortFailed "port-failed",
        PortHomeless "port-homeless",
        PortLeftovers "port-leftovers",
        KernelRefused "kernel-refused",
        KernelLacks "kernel-lacks",
        KernelNotPermitted "kernel-not-permitted",
        KernelEvents "kernel-events",
        UplinkUnfit "uplink-unfit",
        MtuTooLarge "mtu-too-large",
        DeviceMeddled "device-meddled",
        GateFailed "gate-failed",
        FenceFailed "fence-failed",
        FirewallFiltersBridges "firewall-filters-bridges",
        LeftoversKept "leftovers-kept",
        HostDeviceFailed "host-device-failed",
        FileUnwritten "file-unwritten",
        OutputUnwritten "output-unwritten",
        TerminalFailed "terminal-failed",
        ProgramFailed "program-failed",
        NoRandomNumbers "no-random-numbers",
        NoThreads "no-threads",
        StateUnusable "state-unusable",
        StateUnsafe "state-unsafe",
        StateDamaged "state-damaged",
        StateNewer "state-newer",
        EventsUnkept "events-unkept",
        TracesUnsent "traces-unsent",
        TracesNotBuilt "traces-not-built",
        SocketFailed "socket-failed",
        ApiTokenUnusable "api-token-unusable",
        ConnectionsFailed "connections-failed",
        UnderlaySetUp "underlay-set-up",
        UnderlayNoAddress "underlay-no-address",
        UnderlayReadFailed "underlay-read-failed",
        PathShrank "path-shrank",
        LinkDown "link-down",
        EventsHeldBack "events-held-back",
        NotTaken "not-taken",
        PortBlocked "port-blocked",
        PortNarrow "port-narrow",
        KernelTrouble "kernel-trouble",
        RestartNeeded "restart-needed",
        DaemonFailed "daemon-failed",
        DaemonStuck "daemon-stuck",
        DaemonCrashed "daemon-crashed",
        CoreDumpsPossible "core-dumps-possible",
        NameServiceFailed "name-service-failed",
        DnsNoUpstream "dns-no-upstream",
        SystemdFailed "systemd-failed",
        DeviceStateDamaged "device-state-damaged",
        DockerStateDamaged "docker-state-damaged",
        CniFailed "cni-failed",
        CniDelegateFailed "cni-delegate-failed",
        CniNotAsItWas "cni-not-as-it-was",
        PluginFailed "plugin-failed",
        PluginQuarantined "plugin-quarantined",
        PluginControllerFailed "plugin-controller-failed",
        PluginUnkept "plugin-unkept",
        PluginStateDamaged "plugin-state-damaged",
        PluginCompilerFailed "plugin-compiler-failed",
        PluginCacheFailed "plugin-cache-failed",
    }
}

impl ErrorCode {
    /// The code that a word stands for, if this release has it.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.word() == word)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}

/// A code of a later release is [`ErrorCode::CodeUnknown`]: whoever reads an error can still tell its message. Its kind is not that
/// of [`ErrorCode::CodeUnknown`] but what stands beside it.
impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        Ok(Self::of(&word).unwrap_or(Self::CodeUnknown))
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let words = Self::ALL.iter().map(|code| code.word());
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(
                "The fault, as one word that stays: `meshd explain WORD` says what it means and what to do. Later releases may have others.",
            ))
            .enum_values(Some(words))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for ErrorCode {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_code_has_a_word_of_its_own_that_reads_back() {
        let mut seen = BTreeSet::new();
        for &code in ErrorCode::ALL {
            let word = code.word();
            assert!(seen.insert(word), "{word} twice");
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(word.chars().all(plain) && word.len() <= 40, "{word}");
            assert!(!word.starts_with('-') && !word.ends_with('-'), "{word}");
            assert_eq!(ErrorCode::of(word), Some(code));
        }
    }

    #[test]
    fn a_code_of_a_later_release_is_read_as_unknown() {
        let read: ErrorCode = serde_json::from_str("\"sunspots\"").unwrap();
        assert_eq!(read, ErrorCode::CodeUnknown);
        let read: ErrorCode = serde_json::from_str("\"mac-taken\"").unwrap();
        assert_eq!(read, ErrorCode::MacTaken);
    }
}
