/* Refuses connections to one TCP port: the hello world of docs/plugins/tutorial.md, in C. */

#include "meshd_policy.h"

static uint16_t port = 23;

meshd_say policy_decide(meshd_ask *ask) {
    if (meshd_is_tcp(ask) && meshd_dst_port(ask) == port)
        return meshd_drop(1); /* telnet, says manifest.json */
    return meshd_next();
}

static void blanks(const char *json, uint32_t length, uint32_t *at) {
    while (*at < length && (json[*at] == ' ' || json[*at] == '\n' || json[*at] == '\t' || json[*at] == '\r')) ++*at;
}

static bool eats(const char *json, uint32_t length, uint32_t *at, const char *word) {
    blanks(json, length, at);
    uint32_t n = 0;
    while (word[n]) {
        if (*at + n >= length || json[*at + n] != word[n]) return false;
        n++;
    }
    *at += n;
    return true;
}

/* {} or {"port": N} */
const char *policy_configure(const char *json, uint32_t length) {
    uint32_t at = 0, value = 0, digits = 0;
    const char *wrong = "the config is {\"port\": N}, N from 0 to 65535, or {}";
    if (!eats(json, length, &at, "{")) return wrong;
    if (eats(json, length, &at, "}")) goto end;
    if (!eats(json, length, &at, "\"port\"") || !eats(json, length, &at, ":")) return wrong;
    blanks(json, length, &at);
    for (; at < length && json[at] >= '0' && json[at] <= '9' && digits < 6; at++, digits++)
        value = value * 10 + (uint32_t)(json[at] - '0');
    if (digits == 0 || value > 65535 || !eats(json, length, &at, "}")) return wrong;
    port = (uint16_t)value;
end:
    blanks(json, length, &at);
    return at == length ? 0 : wrong;
}
