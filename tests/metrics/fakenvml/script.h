/* The script of fakenvml.c: its statements in memory, and their reader. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 16
#define MAX_RULES 64
#define MAX_INSTANCES 8

struct values {
    long long util, memutil, mem_total, mem_used, mem_reserved, power_mw, instant_mw, limit_mw, energy_mj;
    long long temp, old_temp, mem_temp, sm_mhz, mem_mhz, events, ecc_sbe_vol, ecc_dbe_vol, ecc_sbe_agg;
    long long ecc_dbe_agg, remap_cor, remap_unc, remap_pending, remap_failure, recovery, mig, renamed;
    long long power_cap_ns, sync_boost_ns, sw_thermal_ns, hw_thermal_ns, power_brake_ns, pcie_tx, pcie_rx;
    long long pcie_correctable, pcie_non_fatal, pcie_fatal, pcie_replay, nvlink_tx_kib, nvlink_rx_kib, nvlinks;
    long long crc_flit, crc_data, link_replay, link_recovery, retired_sbe, retired_dbe, retired_pending, gpm;
};
struct instance { unsigned int gi, ci, sm; char profile[32]; long long total, used; };
struct xid { int gpu; long long sequence; unsigned long long code; };
struct link { int gpu; unsigned int field, link; long long value; };
struct gpm { int gpu; unsigned int gi, metric; double value; };
struct rule { int gpu; char kind[8], what[64]; int code; };
struct script {
    int count, nrules, nprocs[MAX_GPUS], lost[MAX_GPUS], ninstances[MAX_GPUS], nxids, nlinks, ngpms;
    long latency_us;
    struct values gpu[MAX_GPUS];
    struct { unsigned int pid, gi; long long bytes; } procs[MAX_GPUS][16];
    struct instance instances[MAX_GPUS][MAX_INSTANCES];
    struct rule rules[MAX_RULES];
    struct xid xids[MAX_RULES];
    struct link links[MAX_RULES];
    struct gpm gpms[MAX_RULES];
};

static void defaults(struct script *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < MAX_GPUS; i++) {
        s->gpu[i] = (struct values){
            .mem_total = 85520809984LL, .mem_reserved = 600000000, .power_mw = 70000, .instant_mw = 71500,
            .limit_mw = 700000, .temp = 30, .old_temp = 30, .mem_temp = 35, .sm_mhz = 1980, .mem_mhz = 2619 };
    }
}

static void set(struct values *v, const char *key, long long number)
{
#define KEY(name) if (!strcmp(key, #name)) { v->name = number; return; }
    KEY(util) KEY(memutil) KEY(mem_total) KEY(mem_used) KEY(mem_reserved) KEY(power_mw) KEY(instant_mw)
    KEY(limit_mw) KEY(energy_mj) KEY(temp) KEY(old_temp) KEY(mem_temp) KEY(sm_mhz) KEY(mem_mhz) KEY(events)
    KEY(ecc_sbe_vol) KEY(ecc_dbe_vol) KEY(ecc_sbe_agg) KEY(ecc_dbe_agg) KEY(remap_cor) KEY(remap_unc)
    KEY(remap_pending) KEY(remap_failure) KEY(recovery) KEY(mig) KEY(renamed)
    KEY(power_cap_ns) KEY(sync_boost_ns) KEY(sw_thermal_ns) KEY(hw_thermal_ns) KEY(power_brake_ns)
    KEY(pcie_tx) KEY(pcie_rx) KEY(pcie_correctable) KEY(pcie_non_fatal) KEY(pcie_fatal) KEY(pcie_replay)
    KEY(nvlink_tx_kib) KEY(nvlink_rx_kib) KEY(nvlinks) KEY(crc_flit) KEY(crc_data) KEY(link_replay)
    KEY(link_recovery) KEY(retired_sbe) KEY(retired_dbe) KEY(retired_pending) KEY(gpm)
#undef KEY
    fprintf(stderr, "fakenvml: unknown key %s\n", key);
    abort(); /* a script with a slip must not pass for a healthy device */
}

static void add_rule(struct script *s, int gpu, const char *kind, const char *what, int code)
{
    if (s->nrules == MAX_RULES) abort();
    struct rule *r = &s->rules[s->nrules++];
    r->gpu = gpu;
    r->code = code;
    snprintf(r->kind, sizeof r->kind, "%s", kind);
    snprintf(r->what, sizeof r->what, "%s", what);
}

/* Each call has a script of its own: no lock that a hanging call could keep from the others. */
static void load(struct script *s)
{
    defaults(s);
    const char *path = getenv("FAKENVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return;
    char line[256], word[64];
    while (fgets(line, sizeof line, file)) {
        int gpu, code = 0;
        unsigned int gi = 0xFFFFFFFF, id, scope;
        long long number, bytes;
        double value;
        struct instance in;
        if (sscanf(line, "latency %ld", &s->latency_us) == 1) continue;
        if (sscanf(line, "latency %63s %d", word, &code) == 2) { add_rule(s, -1, "latency", word, code); continue; }
        if (sscanf(line, "count %d", &s->count) == 1) continue;
        if (sscanf(line, "err %63s %d", word, &code) == 2) { add_rule(s, -1, "err", word, code); continue; }
        if (sscanf(line, "hang %63s", word) == 1) { add_rule(s, -1, "hang", word, 0); continue; }
        if (sscanf(line, "gpu %d", &gpu) != 1 || gpu < 0 || gpu >= MAX_GPUS) continue;
        if (sscanf(line, "gpu %*d proc %lld %lld %u", &number, &bytes, &gi) >= 2) {
            if (s->nprocs[gpu] == 16) abort();
            s->procs[gpu][s->nprocs[gpu]].pid = (unsigned int)number;
            s->procs[gpu][s->nprocs[gpu]].gi = gi;
            s->procs[gpu][s->nprocs[gpu]++].bytes = bytes;
        } else if (sscanf(line, "gpu %*d instance %u %u %31s %lld %lld %u", &in.gi, &in.ci, in.profile, &in.total,
                          &in.used, &in.sm) == 6) {
            if (s->ninstances[gpu] == MAX_INSTANCES) abort();
            s->instances[gpu][s->ninstances[gpu]++] = in;
        } else if (sscanf(line, "gpu %*d xid %lld %lld", &number, &bytes) == 2) {
            if (s->nxids == MAX_RULES) abort();
            s->xids[s->nxids++] = (struct xid){ gpu, number, (unsigned long long)bytes };
        } else if (sscanf(line, "gpu %*d link %u %u %lld", &id, &scope, &number) == 3) {
            if (s->nlinks == MAX_RULES) abort();
            s->links[s->nlinks++] = (struct link){ gpu, id, scope, number };
        } else if (sscanf(line, "gpu %*d gpm %u %u %lf", &gi, &id, &value) == 3) {
            if (s->ngpms == MAX_RULES) abort();
            s->gpms[s->ngpms++] = (struct gpm){ gpu, gi, id, value };
        } else if (sscanf(line, "gpu %*d lost %d", &code) == 1) s->lost[gpu] = code;
        else if (sscanf(line, "gpu %*d err %63s %d", word, &code) == 2) add_rule(s, gpu, "err", word, code);
        else if (sscanf(line, "gpu %*d field %63s %d", word, &code) == 2) add_rule(s, gpu, "field", word, code);
        else if (sscanf(line, "gpu %*d hang %63s", word) == 1) add_rule(s, gpu, "hang", word, 0);
        else if (sscanf(line, "gpu %*d %63s %lld", word, &number) == 2) set(&s->gpu[gpu], word, number);
    }
    fclose(file);
}

static const struct rule *find(const struct script *s, int gpu, const char *kind, const char *what)
{
    for (int i = 0; i < s->nrules; i++)
        if (s->rules[i].gpu == gpu && !strcmp(s->rules[i].kind, kind) && !strcmp(s->rules[i].what, what))
            return &s->rules[i];
    return NULL;
}
