//! How the words of [`ident`](crate::ident) look in OpenAPI: texts and numbers, with what bounds them.
//!
//! Owns nothing; all other shapes are derived where they are defined.

use crate::command::IpSpec;
use crate::config::DeviceName;
use crate::ident::{Epoch, Label, MacAddr, MeshId, NodeId, PortId, Vni};
use crate::owner::{OWNER_MAX, Owner};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type,
};
use utoipa::{PartialSchema, ToSchema};

macro_rules! shapes {
    ($($name:ident: $builder:expr;)*) => { $(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $builder.into()
            }
        }
        impl ToSchema for $name {}
    )* };
}

fn text(pattern: &str, description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .description(Some(description))
}

fn number(format: KnownFormat, description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(format)))
        .minimum(Some(0))
        .description(Some(description))
}

fn addresses() -> OneOfBuilder {
    let word = text(
        "^(auto|none)$",
        "One leased from each subnet of the network, or none.",
    );
    let fixed = ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::String));
    let these = ObjectBuilder::new()
        .property("fixed", fixed)
        .required("fixed")
        .description(Some("These, with the prefix length of their subnet."));
    OneOfBuilder::new()
        .item(word)
        .item(these)
        .description(Some("Which addresses a port gets."))
}

shapes! {
    IpSpec: addresses();
    NodeId: text("^[a-z2-7]{52}$", "A node: its Ed25519 public key, in unpadded lower-case base32.");
    MeshId: text("^[a-z2-7]{52}$", "A mesh: the public key of its root, in unpadded lower-case base32.");
    MacAddr: text("^([0-9a-f]{2}:){5}[0-9a-f]{2}$", "EUI-48 address, in lower case.");
    Label: text("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", "A name: one DNS label, in lower case.");
    DeviceName: text("^[^/\\s:%]+$", "Name of a device: 1 to 15 bytes.");
    Owner: text("^[!-~]+$", "Whose port it is: printable ASCII characters without a space.").max_length(Some(OWNER_MAX));
    Vni: number(KnownFormat::Int32, "VXLAN network identifier, 1 to 16777215.").minimum(Some(1)).maximum(Some((1 << 24) - 1));
    PortId: number(KnownFormat::Int64, "A port of this node. Never used twice.");
    Epoch: number(KnownFormat::Int64, "What config, plugins and topology bump.");
}
