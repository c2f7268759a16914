/* A libnvidia-ml.so.1 of pretend GPUs, for machines without one: what nvidia-ml-py needs of it, right or wrong.
 *
 * NVML_FAULT says what goes wrong: "driver" (initialisation fails), "power" (not supported), "lost" (card 1 stops
 * answering after its first reading), "hidden" (card 1 is another user's), "lies" (figures that cannot be), "many" (a
 * count that cannot be); nothing for cards that work. Numbers of errors and layouts are those of NVIDIA's nvml.h.
 */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;

static unsigned asked[2];

static int fault(const char *name) {
    const char *wanted = getenv("NVML_FAULT");
    return wanted && strcmp(wanted, name) == 0;
}

static unsigned number(void *card) { return (unsigned)(size_t)card - 1; }

int nvmlInitWithFlags(unsigned flags) { (void)flags; return fault("driver") ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int error) {
    switch (error) {
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) { *count = fault("many") ? 4000000000u : 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) {
    if (index > 1) return INVALID_ARGUMENT;
    if (index == 1 && fault("hidden")) return NO_PERMISSION;
    *card = (void *)(size_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *card, char *text, unsigned length) {
    strncpy(text, number(card) ? "GPU-bbbb-1" : "GPU-aaaa-0", length);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *card, Utilization *rates) {
    if (fault("lost") && number(card) == 1 && asked[1]++ > 0) return GPU_IS_LOST;
    rates->gpu = fault("lies") ? 4294967295u : number(card) ? 0 : 100;
    rates->memory = 1;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *card, Memory *memory) {
    memory->total = 48ull << 30;
    memory->used = fault("lies") ? 49ull << 30 : (1 + number(card)) << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *card, unsigned *milliwatts) {
    if (fault("power")) return NOT_SUPPORTED;
    *milliwatts = fault("lies") ? 4294967295u : 70000 + 200000 * (number(card) == 0);
    return SUCCESS;
}
