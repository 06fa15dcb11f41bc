/* The world `policy` of package meshd:policy@0.1.0 for C: freestanding, no libc, no allocator.
 *
 *   host --key--> meshd_ask --meshd_…(ask) notes what is read--> meshd_verdict: what was noted goes along
 *
 * Records are laid out as the component model's canonical ABI has them for wasm32, which is as C has them there; the
 * assertions below say so. Include it in one file, and define there
 *
 *   meshd_say  policy_decide(meshd_ask *ask);
 *   const char *policy_configure(const char *json, uint32_t length);      // 0: taken, else why not
 */
#ifndef MESHD_POLICY_H
#define MESHD_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct { uint16_t hi; uint32_t lo; } meshd_mac;
/* IPv4 is ::ffff:a.b.c.d: 96 bits stand before it. */
typedef struct { uint64_t hi, lo; } meshd_ip;

enum { MESHD_NO_IP, MESHD_V4, MESHD_V6, MESHD_ARP_V4, MESHD_ND_V6 };

/* `flow-key` of wit/types.wit. Read it by the functions below, or nothing is noted. */
typedef struct {
    uint8_t dir;
    uint32_t in_port;
    uint64_t in_peer;
    uint32_t tenant, src_identity, dst_identity;
    meshd_mac src_mac, dst_mac;
    uint8_t dst_class;
    uint16_t ether_type, vlan;
    uint8_t pcp;
    uint16_t inner_vlan;
    uint8_t ip_kind;
    meshd_ip src_ip, dst_ip;
    uint8_t ip_proto, dscp, ecn, ttl, frag;
    bool l4_ok;
    uint16_t src_port, dst_port, tcp_flags;
    uint8_t icmp_type, icmp_code, ct;
    uint32_t ct_mark;
} meshd_key;

/* `dep-mask`: what a verdict rests on. */
typedef struct {
    uint32_t fields;
    uint8_t src_mac_prefix, dst_mac_prefix, src_ip_prefix, dst_ip_prefix;
    uint16_t src_port_mask, dst_port_mask;
} meshd_deps;

/* A question, and what was read of it. */
typedef struct { const meshd_key *key; meshd_deps deps; } meshd_ask;

/* Each whole field: meshd_ip_kind(ask) and so on; the number is that of `deps`. */
#define MESHD_FIELD(type, name, bit)                         \
    static inline type meshd_##name(meshd_ask *ask) {        \
        ask->deps.fields |= 1u << (bit);                     \
        return ask->key->name;                               \
    }
MESHD_FIELD(uint8_t, dir, 0)
MESHD_FIELD(uint32_t, in_port, 1)
MESHD_FIELD(uint64_t, in_peer, 2)
MESHD_FIELD(uint32_t, tenant, 3)
MESHD_FIELD(uint8_t, dst_class, 8)
MESHD_FIELD(uint16_t, ether_type, 9)
MESHD_FIELD(uint16_t, vlan, 10)
MESHD_FIELD(uint8_t, pcp, 11)
MESHD_FIELD(uint16_t, inner_vlan, 12)
MESHD_FIELD(uint8_t, ip_kind, 13)
MESHD_FIELD(uint8_t, ip_proto, 14)
MESHD_FIELD(uint8_t, dscp, 15)
MESHD_FIELD(uint8_t, ecn, 16)
MESHD_FIELD(uint8_t, ttl, 17)
MESHD_FIELD(uint8_t, frag, 18)
MESHD_FIELD(bool, l4_ok, 19)
MESHD_FIELD(uint16_t, tcp_flags, 20)
MESHD_FIELD(uint8_t, icmp_type, 21)
MESHD_FIELD(uint8_t, icmp_code, 22)

/* Parts of a field: only what is compared is noted. */
static inline uint16_t meshd_src_port(meshd_ask *ask) {
    ask->deps.src_port_mask = 0xffff;
    return ask->key->src_port;
}
static inline uint16_t meshd_dst_port(meshd_ask *ask) {
    ask->deps.dst_port_mask = 0xffff;
    return ask->key->dst_port;
}
/* The leading `bits` (0 to 128) of two addresses are the same. */
static inline bool meshd_same_prefix(meshd_ip a, meshd_ip b, uint8_t bits) {
    uint64_t hi = bits == 0 ? 0 : bits >= 64 ? ~0ull : ~0ull << (64 - bits);
    uint64_t lo = bits <= 64 ? 0 : bits >= 128 ? ~0ull : ~0ull << (128 - bits);
    return ((a.hi ^ b.hi) & hi) == 0 && ((a.lo ^ b.lo) & lo) == 0;
}
static inline bool meshd_src_ip_in(meshd_ask *ask, meshd_ip net, uint8_t bits) {
    if (ask->deps.src_ip_prefix < bits) ask->deps.src_ip_prefix = bits;
    return meshd_same_prefix(ask->key->src_ip, net, bits);
}
static inline bool meshd_dst_ip_in(meshd_ask *ask, meshd_ip net, uint8_t bits) {
    if (ask->deps.dst_ip_prefix < bits) ask->deps.dst_ip_prefix = bits;
    return meshd_same_prefix(ask->key->dst_ip, net, bits);
}

/* TCP, and its header is there. */
static inline bool meshd_is_tcp(meshd_ask *ask) {
    uint8_t kind = meshd_ip_kind(ask);
    return (kind == MESHD_V4 || kind == MESHD_V6) && meshd_ip_proto(ask) == 6 && meshd_l4_ok(ask);
}

/* What a policy says. */
typedef struct { uint8_t target; uint16_t code; bool reject; } meshd_say;
static inline meshd_say meshd_next(void) { return (meshd_say){0, 0, false}; }
static inline meshd_say meshd_drop(uint16_t code) { return (meshd_say){1, code, false}; }
static inline meshd_say meshd_reject(uint16_t code) { return (meshd_say){1, code, true}; }
static inline meshd_say meshd_accept(void) { return (meshd_say){2, 0, false}; }

meshd_say policy_decide(meshd_ask *ask);
const char *policy_configure(const char *json, uint32_t length);

/* ---- below: the canonical ABI ---- */

typedef struct { uint32_t at, length; } meshd_list;
typedef struct {
    uint8_t target;
    _Alignas(8) struct { uint16_t code; bool reject; } why;
    _Alignas(8) uint64_t rest; /* of the larger targets, which this header does not make */
    meshd_list actions;
    meshd_deps deps;
    struct { bool cacheable; uint32_t idle_ms, hard_ms; meshd_list tags; } life;
} meshd_verdict;

_Static_assert(sizeof(void *) == 4, "build for wasm32");
_Static_assert(offsetof(meshd_key, src_ip) == 56 && offsetof(meshd_key, ct_mark) == 104, "flow-key");
_Static_assert(sizeof(meshd_deps) == 12, "dep-mask");
_Static_assert(offsetof(meshd_verdict, actions) == 24 && offsetof(meshd_verdict, life) == 44, "verdict");
_Static_assert(sizeof(meshd_verdict) == 64, "verdict");

/* The host puts one config or one key here at a time. */
static uint8_t meshd_room[320 << 10] __attribute__((aligned(16)));
static uint32_t meshd_used;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, uint32_t old_size, uint32_t align, uint32_t size) {
    (void)old, (void)old_size;
    uint32_t at = (meshd_used + align - 1) & ~(align - 1);
    if (at > sizeof meshd_room || size > sizeof meshd_room - at) __builtin_trap();
    meshd_used = at + size;
    return meshd_room + at;
}

__attribute__((export_name("meshd:policy/decide@0.1.0#configure")))
void *meshd_configure(const char *json, uint32_t length, uint64_t generation) {
    static struct { uint32_t refused; meshd_list errors; } result;
    static struct { meshd_list pointer, message; } error;
    (void)generation;
    const char *why = policy_configure(json, length);
    result.refused = why != 0;
    if (why) {
        uint32_t end = 0;
        while (why[end]) end++;
        error.pointer = (meshd_list){(uint32_t)(uintptr_t)why, 0};
        error.message = (meshd_list){(uint32_t)(uintptr_t)why, end};
        result.errors = (meshd_list){(uint32_t)(uintptr_t)&error, 1};
    }
    meshd_used = 0;
    return &result;
}

__attribute__((export_name("meshd:policy/decide@0.1.0#update")))
void meshd_update(void *facts, uint32_t count, uint64_t at) {
    (void)facts, (void)count, (void)at;
    meshd_used = 0;
}

__attribute__((export_name("meshd:policy/decide@0.1.0#decide"))) void *meshd_decide(const meshd_key *key) {
    static meshd_verdict verdict;
    meshd_ask ask;
    ask.key = key;
    ask.deps = (meshd_deps){0};
    meshd_say say = policy_decide(&ask);
    verdict.target = say.target;
    verdict.why.code = say.code;
    verdict.why.reject = say.reject;
    verdict.deps = ask.deps;
    verdict.life.cacheable = true;
    meshd_used = 0;
    return &verdict;
}

#endif
