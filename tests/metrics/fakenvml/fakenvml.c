/* A scripted libnvidia-ml.so.1 for tests, so that production's own pynvml and ctypes code runs without a GPU.
 *
 * The script is the file named by FAKENVML_STATE; it is read again at every call, so replace it whole
 * (write beside it, then rename). One statement a line:
 *   count N                          devices enumerated
 *   gpu I KEY NUMBER                 a value; KEY is one of the members of struct values
 *   gpu I proc PID BYTES             a compute process; -1 bytes: the driver does not know
 *   gpu I lost CODE                  every call on the device answers with this nvmlReturn_t
 *   gpu I err FUNCTION CODE          one function answers with this code
 *   gpu I field ID CODE              one field value answers with this code
 *   gpu I hang FUNCTION              the function does not return while the script says so
 *   err FUNCTION CODE, hang FUNCTION the same for calls that have no device
 *
 * NVIDIA's nvml.h is not needed: the few types are declared here with the layout of the public API
 * (docs.nvidia.com/deploy/nvml-api), which is also that of the ctypes structures in pynvml.
 * Built with -DFAKENVML_OLD the library lacks the symbols that came with CUDA 12.8, with
 * -DFAKENVML_NEW those that CUDA 14 removes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define API __attribute__((visibility("default")))
#define MAX_GPUS 16
#define MAX_RULES 64

typedef int nvmlReturn_t;
typedef struct device *nvmlDevice_t;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };

typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned int version; int sensorType, temperature; } nvmlTemperature_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;
typedef union {
    double dVal;
    unsigned int uiVal;
    unsigned long ulVal;
    unsigned long long ullVal;
    signed long long sllVal;
    signed int siVal;
    unsigned short usVal;
} nvmlValue_t;
typedef struct {
    unsigned int fieldId, scopeId;
    long long timestamp, latencyUsec;
    int valueType, nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;

struct values {
    long long util, memutil, mem_total, mem_used, mem_reserved, power_mw, instant_mw, limit_mw, energy_mj;
    long long temp, old_temp, mem_temp, sm_mhz, mem_mhz, events, ecc_sbe_vol, ecc_dbe_vol, ecc_sbe_agg;
    long long ecc_dbe_agg, remap_cor, remap_unc, remap_pending, remap_failure, recovery, mig, renamed;
};
struct rule { int gpu; char kind[8], what[64]; int code; };
struct script {
    int count, nrules, nprocs[MAX_GPUS], lost[MAX_GPUS];
    struct values gpu[MAX_GPUS];
    struct { unsigned int pid; long long bytes; } procs[MAX_GPUS][16];
    struct rule rules[MAX_RULES];
};

static int initialised;

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
        long long number, bytes;
        if (sscanf(line, "count %d", &s->count) == 1) continue;
        if (sscanf(line, "err %63s %d", word, &code) == 2) { add_rule(s, -1, "err", word, code); continue; }
        if (sscanf(line, "hang %63s", word) == 1) { add_rule(s, -1, "hang", word, 0); continue; }
        if (sscanf(line, "gpu %d", &gpu) != 1 || gpu < 0 || gpu >= MAX_GPUS) continue;
        if (sscanf(line, "gpu %*d proc %lld %lld", &number, &bytes) == 2) {
            if (s->nprocs[gpu] == 16) abort();
            s->procs[gpu][s->nprocs[gpu]].pid = (unsigned int)number;
            s->procs[gpu][s->nprocs[gpu]++].bytes = bytes;
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

static nvmlReturn_t enter(struct script *s, int gpu, const char *function)
{
    load(s);
    while (find(s, gpu, "hang", function)) {
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
        load(s);
    }
    const struct rule *rule = find(s, gpu, "err", function);
    if (rule) return rule->code;
    return gpu >= 0 && s->lost[gpu] ? s->lost[gpu] : SUCCESS;
}

static int index_of(nvmlDevice_t device) { return (int)((long)device - 0x1000); }

/* Every device call starts so: s is its script, v its values. */
#define DEVICE                                                                                                 \
    struct script script, *s = &script;                                                                        \
    if (!initialised) return UNINITIALIZED;                                                                    \
    int i = index_of(device);                                                                                  \
    if (i < 0 || i >= MAX_GPUS) return INVALID_ARGUMENT;                                                       \
    nvmlReturn_t code = enter(s, i, __func__);                                                                 \
    if (code) return code;                                                                                     \
    struct values *v = &s->gpu[i];                                                                             \
    (void)v

API nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    struct script s;
    (void)flags;
    nvmlReturn_t code = enter(&s, -1, __func__);
    if (!code) initialised++;
    return code;
}

API nvmlReturn_t nvmlShutdown(void)
{
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

API const char *nvmlErrorString(nvmlReturn_t code)
{
    (void)code;
    return "scripted error";
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned int size)
{
    snprintf(text, size, "580.95.05");
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    struct script s;
    if (!initialised) return UNINITIALIZED;
    nvmlReturn_t code = enter(&s, -1, __func__);
    *count = (unsigned int)s.count;
    return code;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *handle)
{
    nvmlDevice_t device = (nvmlDevice_t)(0x1000L + index);
    DEVICE;
    if (i >= s->count) return INVALID_ARGUMENT;
    *handle = device;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned int size)
{
    DEVICE;
    snprintf(text, size, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned int size)
{
    DEVICE;
    snprintf(text, size, "GPU-00000000-0000-0000-0000-%012lld", i + v->renamed);
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    DEVICE;
    memset(info, 0, sizeof *info);
    info->bus = 0x18 + (unsigned int)i;
    snprintf(info->busId, sizeof info->busId, "00000000:%02X:00.0", info->bus);
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    DEVICE;
    if (v->mig) return NOT_SUPPORTED;
    rates->gpu = (unsigned int)v->util;
    rates->memory = (unsigned int)v->memutil;
    return SUCCESS;
}

/* Version 1 counts the driver's reserve as used. */
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    DEVICE;
    memory->total = (unsigned long long)v->mem_total;
    memory->used = (unsigned long long)(v->mem_used + v->mem_reserved);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    DEVICE;
    if (memory->version != (sizeof *memory | 2 << 24)) return INVALID_ARGUMENT;
    memory->total = (unsigned long long)v->mem_total;
    memory->reserved = (unsigned long long)v->mem_reserved;
    memory->used = (unsigned long long)v->mem_used;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

#define NUMBER(function, type, value)                                                                          \
    API nvmlReturn_t function(nvmlDevice_t device, type *out)                                                  \
    {                                                                                                          \
        DEVICE;                                                                                                \
        *out = (type)(value);                                                                                  \
        return SUCCESS;                                                                                        \
    }
NUMBER(nvmlDeviceGetPowerUsage, unsigned int, v->power_mw)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, v->limit_mw)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, v->energy_mj)
#ifndef FAKENVML_OLD
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, v->events)

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *reading)
{
    DEVICE;
    if (reading->version != (sizeof *reading | 1 << 24) || reading->sensorType) return INVALID_ARGUMENT;
    reading->temperature = (int)v->temp;
    return SUCCESS;
}
#endif
#ifndef FAKENVML_NEW
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, v->events)

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *celsius)
{
    DEVICE;
    if (sensor) return INVALID_ARGUMENT;
    *celsius = (unsigned int)v->old_temp;
    return SUCCESS;
}
#endif

API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int domain, unsigned int *megahertz)
{
    DEVICE;
    if (domain < 0 || domain > 3) return INVALID_ARGUMENT;
    *megahertz = (unsigned int)(domain == 2 ? v->mem_mhz : v->sm_mhz);
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    DEVICE;
    *current = *pending = (unsigned int)v->mig;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                          nvmlProcessInfo_t *list)
{
    DEVICE;
    unsigned int room = *count, have = (unsigned int)s->nprocs[i];
    *count = have;
    if (have > room || (have && !list)) return INSUFFICIENT_SIZE;
    for (unsigned int n = 0; n < have; n++) {
        list[n].pid = s->procs[i][n].pid;
        list[n].usedGpuMemory = (unsigned long long)s->procs[i][n].bytes;
        list[n].gpuInstanceId = list[n].computeInstanceId = 0xFFFFFFFF;
    }
    return SUCCESS;
}

static void as_uint(nvmlFieldValue_t *f, long long n) { f->valueType = 1; f->value.uiVal = (unsigned int)n; }
static void as_ullong(nvmlFieldValue_t *f, long long n) { f->valueType = 3; f->value.ullVal = (unsigned long long)n; }

/* The union is filled with ones first: a reader of the wrong member sees nonsense. */
static void field(const struct script *s, int i, nvmlFieldValue_t *f)
{
    const struct values *v = &s->gpu[i];
    char id[16];
    snprintf(id, sizeof id, "%u", f->fieldId);
    const struct rule *rule = find(s, i, "field", id);
    memset(&f->value, 0xFF, sizeof f->value);
    f->nvmlReturn = rule ? rule->code : SUCCESS;
    f->valueType = 3;
    if (rule) return;
    switch (f->fieldId) {
    case 3: as_ullong(f, v->ecc_sbe_vol); break;
    case 4: as_ullong(f, v->ecc_dbe_vol); break;
    case 5: as_ullong(f, v->ecc_sbe_agg); break;
    case 6: as_ullong(f, v->ecc_dbe_agg); break;
    case 82: as_uint(f, v->mem_temp); break;
    case 83: as_ullong(f, v->energy_mj); break;
    case 142: as_uint(f, v->remap_cor); break;
    case 143: as_uint(f, v->remap_unc); break;
    case 144: as_uint(f, v->remap_pending); break;
    case 145: as_uint(f, v->remap_failure); break;
    case 186: as_uint(f, v->instant_mw); break;
    case 230: as_uint(f, v->recovery); break;
    default: f->nvmlReturn = NOT_SUPPORTED;
    }
}

API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    DEVICE;
    for (int n = 0; n < count; n++) field(s, i, &values[n]);
    return SUCCESS;
}
