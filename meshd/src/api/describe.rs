//! Routes that say what they are: each handler tells by its own types what it takes and gives, so that the OpenAPI document
//! cannot say anything else than the code does.
//!
//! ```text
//!   handler(State, Segments, Asked<Q>, Body<T>) -> Answer<V>
//!                     |        |         |               |
//!                  path    parameters  request       response, and every shape below them
//! ```
//!
//! Owns the table of routes: which takes a query, how large a body each takes, which change something. Refuses a route
//! without a description, since there is no other way to add one.

use super::extract::{Answer, ApiError, Asked, Body, Segments};
use super::{BODY_MAX, PLUGIN_MAX};
use axum::Extension;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::handler::Handler;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Json;
use axum::routing::{MethodFilter, on};
use meshd_core::command::Refusal;
use meshd_core::view;
use std::collections::BTreeMap;
use std::future::Future;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
};
use utoipa::{IntoParams, ToSchema};

/// What of a route must be known before it is at work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Takes {
    /// Something behind the `?`.
    pub(super) query: bool,
    /// So many bytes of a body.
    pub(super) body: usize,
    /// It changes something, or shows what only who may change should see.
    pub(super) changes: bool,
}

/// What is known of a path that leads nowhere.
pub(super) const NOWHERE: Takes = Takes {
    query: true,
    body: BODY_MAX,
    changes: false,
};

/// By template of the path, then by method.
pub(super) type Table = BTreeMap<&'static str, Vec<(Method, Takes)>>;

/// One operation, as it is told.
pub(super) struct Page {
    operation: OperationBuilder,
    takes: Takes,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl Page {
    /// The shape of `T`, by its name where it has one.
    fn shape<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let mut below = Vec::new();
        T::schemas(&mut below);
        self.schemas.extend(below);
        let name = T::name().into_owned();
        self.schemas.insert(name.clone(), T::schema());
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn list<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let item = self.shape::<T>();
        utoipa::openapi::ArrayBuilder::new().items(item).into()
    }

    fn map(&mut self, change: impl FnOnce(OperationBuilder) -> OperationBuilder) {
        self.operation = change(std::mem::take(&mut self.operation));
    }

    /// A list of `T`, or the same one by one.
    pub(super) fn list_or_stream<T: ToSchema>(&mut self) {
        let list = self.list::<T>();
        let text = ObjectBuilder::new().schema_type(Type::String);
        let response = ResponseBuilder::new()
            .description(
                "A list; or, with `follow=true`, server-sent events whose data are its items.",
            )
            .content(
                "application/json",
                ContentBuilder::new().schema(Some(list)).build(),
            )
            .content(
                "text/event-stream",
                ContentBuilder::new().schema(Some(text)).build(),
            )
            .build();
        self.map(|operation| operation.response("200", response));
    }

    fn answer(&mut self, kind: &str, schema: RefOr<Schema>) {
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new()
            .description("Done.")
            .content(kind, content)
            .build();
        self.map(|operation| operation.response("200", response));
    }
}

/// A part of a request: what it adds to the description.
pub(super) trait Part {
    /// See the trait.
    fn tell(page: &mut Page);
}

impl<B> Part for State<B> {
    fn tell(_: &mut Page) {}
}
/// What the layers before it found out.
impl<T> Part for Extension<T> {
    fn tell(_: &mut Page) {}
}
impl Part for HeaderMap {
    fn tell(_: &mut Page) {}
}
/// What they are called stands in the path.
impl<T> Part for Segments<T> {
    fn tell(_: &mut Page) {}
}
impl<T: IntoParams> Part for Asked<T> {
    fn tell(page: &mut Page) {
        page.takes.query = true;
        for parameter in T::into_params(|| Some(ParameterIn::Query)) {
            page.map(|operation| operation.parameter(parameter));
        }
    }
}
impl<T: ToSchema> Part for Body<T> {
    fn tell(page: &mut Page) {
        let shape = page.shape::<T>();
        let content = ContentBuilder::new().schema(Some(shape)).build();
        let body = RequestBodyBuilder::new()
            .content("application/json", content)
            .required(Some(Required::True))
            .build();
        page.map(|operation| operation.request_body(Some(body)));
    }
}
/// A component, as it is.
impl Part for Bytes {
    fn tell(page: &mut Page) {
        page.takes.body = PLUGIN_MAX;
        let content = ContentBuilder::new().schema(Some(binary())).build();
        let body = RequestBodyBuilder::new()
            .content("application/wasm", content)
            .required(Some(Required::True))
            .build();
        page.map(|operation| operation.request_body(Some(body)));
    }
}

fn binary() -> RefOr<Schema> {
    let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(format))
        .into()
}

/// What a handler gives.
pub(super) trait Given {
    /// See the trait.
    fn tell(page: &mut Page);
}

/// Text that is no JSON: `mime` as the document has it.
pub(super) trait Text {
    /// Kinds of content, the preferred one first.
    const KINDS: &'static [&'static str];
}

impl<T: Shaped> Given for Answer<T> {
    fn tell(page: &mut Page) {
        let shape = T::shape(page);
        page.answer("application/json", shape);
    }
}
impl<T: Shaped> Given for Json<T> {
    fn tell(page: &mut Page) {
        let shape = T::shape(page);
        page.answer("application/json", shape);
    }
}
impl Given for Result<StatusCode, ApiError> {
    fn tell(page: &mut Page) {
        let response = ResponseBuilder::new().description("Done.").build();
        page.map(|operation| operation.response("204", response));
    }
}
impl<T: Text> Given for Result<T, ApiError> {
    fn tell(page: &mut Page) {
        let mut response = ResponseBuilder::new().description("Done.");
        for kind in T::KINDS {
            let text = ObjectBuilder::new().schema_type(Type::String);
            let content = ContentBuilder::new().schema(Some(text)).build();
            response = response.content(*kind, content);
        }
        page.map(|operation| operation.response("200", response.build()));
    }
}

/// A shape in an answer: one of its own, or a list of them.
#[diagnostic::on_unimplemented(note = "put it into the list of `shaped!` in describe.rs")]
pub(super) trait Shaped {
    /// See the trait.
    fn shape(page: &mut Page) -> RefOr<Schema>;
}

impl<T: ToSchema> Shaped for Vec<T> {
    fn shape(page: &mut Page) -> RefOr<Schema> {
        page.list::<T>()
    }
}

macro_rules! shaped {
    ($($one:ty,)*) => { $(
        impl Shaped for $one {
            fn shape(page: &mut Page) -> RefOr<Schema> {
                page.shape::<Self>()
            }
        }
    )* };
}
// A list is any `Vec`; what is answered alone stands here.
shaped! {
    super::requests::Invite,
    super::requests::Version,
    super::requests::LogLevel,
    crate::docker::Status,
    crate::docker::Tidied,
    view::Device,
    view::Doctor,
    view::Network,
    view::Plugin,
    view::Port,
    view::Status,
    view::TraceReport,
    view::VtepRow,
}

/// A handler that tells what it takes and gives.
pub(super) trait Tells<Args> {
    /// See the trait.
    fn tell(&self, page: &mut Page);
}

macro_rules! tells {
    ($($part:ident)*) => {
        impl<Call, Answered, $($part,)*> Tells<($($part,)*)> for Call
        where
            Call: Fn($($part),*) -> Answered,
            Answered: Future,
            Answered::Output: Given,
            $($part: Part,)*
        {
            fn tell(&self, page: &mut Page) {
                $($part::tell(page);)*
                <Answered::Output as Given>::tell(page);
            }
        }
    };
}
tells!();
tells!(A);
tells!(A B);
tells!(A B C);
tells!(A B C D);

/// The table of routes as it grows.
pub(super) struct Routes<S> {
    router: Router<S>,
    table: Table,
    paths: Vec<(&'static str, HttpMethod, Operation)>,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            table: Table::new(),
            paths: Vec::new(),
            schemas: BTreeMap::new(),
        }
    }

    /// Something to be read; `summary` is one sentence. HEAD is answered, too.
    pub(super) fn get<A, M: 'static>(
        self,
        path: &'static str,
        summary: &str,
        handler: impl Handler<M, S> + Tells<A>,
    ) -> Self {
        self.on(Method::GET, path, summary, false, handler)
    }

    /// A question with a body, that changes nothing.
    pub(super) fn ask<A, M: 'static>(
        self,
        path: &'static str,
        summary: &str,
        handler: impl Handler<M, S> + Tells<A>,
    ) -> Self {
        self.on(Method::POST, path, summary, false, handler)
    }

    /// A change.
    pub(super) fn post<A, M: 'static>(
        self,
        path: &'static str,
        summary: &str,
        handler: impl Handler<M, S> + Tells<A>,
    ) -> Self {
        self.on(Method::POST, path, summary, true, handler)
    }

    /// A change: something is so from now on.
    pub(super) fn put<A, M: 'static>(
        self,
        path: &'static str,
        summary: &str,
        handler: impl Handler<M, S> + Tells<A>,
    ) -> Self {
        self.on(Method::PUT, path, summary, true, handler)
    }

    /// A change: something is no more.
    pub(super) fn delete<A, M: 'static>(
        self,
        path: &'static str,
        summary: &str,
        handler: impl Handler<M, S> + Tells<A>,
    ) -> Self {
        self.on(Method::DELETE, path, summary, true, handler)
    }

    /// A route; `changes`: for who may change, whatever the method.
    pub(super) fn on<A, M: 'static>(
        mut self,
        method: Method,
        path: &'static str,
        summary: &str,
        changes: bool,
        handler: impl Handler<M, S> + Tells<A>,
    ) -> Self {
        let mut page = Page {
            operation: OperationBuilder::new()
                .summary(Some(summary))
                .operation_id(Some(operation_id(&method, path)))
                .tag(tag(path)),
            takes: Takes {
                query: false,
                body: BODY_MAX,
                changes,
            },
            schemas: BTreeMap::new(),
        };
        for name in names(path) {
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some(segment(name)))
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            page.map(|operation| operation.parameter(parameter));
        }
        handler.tell(&mut page);
        let refusal = page.shape::<Refusal>();
        let content = ContentBuilder::new().schema(Some(refusal)).build();
        let refused = ResponseBuilder::new()
            .description("Refused, or failed; `code` says how.")
            .content("application/json", content)
            .build();
        page.map(|operation| operation.response("default", refused));
        let (filter, named) = match method {
            Method::POST => (MethodFilter::POST, HttpMethod::Post),
            Method::PUT => (MethodFilter::PUT, HttpMethod::Put),
            Method::DELETE => (MethodFilter::DELETE, HttpMethod::Delete),
            _ => (MethodFilter::GET, HttpMethod::Get),
        };
        self.paths.push((path, named, page.operation.build()));
        self.table
            .entry(path)
            .or_default()
            .push((method, page.takes));
        self.schemas.extend(page.schemas);
        self.router = self.router.route(path, on(filter, handler));
        self
    }

    /// The router, what is to be known before a request is at work, and the document.
    pub(super) fn done(self) -> (Router<S>, Table, OpenApi) {
        let mut paths = PathsBuilder::new();
        for (path, method, operation) in self.paths {
            paths = paths.path(path, PathItem::new(method, operation));
        }
        let components = ComponentsBuilder::new()
            .schemas_from_iter(self.schemas)
            .security_scheme(
                "token",
                SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
            );
        let info = InfoBuilder::new()
            .title("meshd")
            .version("1")
            .description(Some(ABOUT))
            .license(Some(License::new("Apache-2.0 OR MIT")));
        let document = OpenApiBuilder::new()
            .info(info)
            .paths(paths)
            .components(Some(components.build()))
            // Over the Unix socket the kernel says who asks; over TCP it takes the token.
            .security(Some([
                SecurityRequirement::default(),
                SecurityRequirement::new::<_, [&str; 0], &str>("token", []),
            ]));
        (self.router, self.table, document.build())
    }
}

const ABOUT: &str = "The API of the meshd daemon, on its Unix socket and, if the config says so, on a TCP port of the \
    loopback with a token. Who may read and who may change is in docs/reference/api.md, as are the limits. Instants are \
    named `..._at_ms` (milliseconds since the Unix epoch), spans by their unit (`_s`, `_ms`, `_us`, `_ns`). Unknown fields \
    and query keys are refused.";

/// `{network}` and so on, without the braces.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn segment(name: &str) -> &'static str {
    match name {
        "member" => "Name of the member, or its id, or at least 6 characters of its beginning.",
        "network" => "Name or VNI of the network.",
        "port" => "The port's number, or `name` or `name.network` of its endpoint.",
        "plugin" => "Name of the plugin on this node.",
        "owner" => "As it was given when the port was attached.",
        "ip" => "Address of the VTEP.",
        "device" => "Name of the device on this host.",
        _ => "As its name says.",
    }
}

/// `GET /v1/networks/{network}/plugins` is `get_networks_by_network_plugins`.
fn operation_id(method: &Method, path: &str) -> String {
    let mut id = method.as_str().to_lowercase();
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != "v1")
    {
        match part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
        {
            Some(name) => id.extend(["_by_", name]),
            None => id.extend(["_", part.replace(['-', '.'], "_").as_str()]),
        }
    }
    id
}

/// The first word behind the version.
fn tag(path: &str) -> &str {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path.split('/').nth(1).unwrap_or("v1")
}
