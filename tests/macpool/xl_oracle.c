// SPDX-License-Identifier: Apache-2.0
//
// In C because libxl's headers are.
#include "tests/macpool/xl_oracle.h"

#include <libxlutil.h>
#include <stdio.h>
#include <string.h>

static int add(char* out, size_t size, const char* text) {
    const size_t used = strlen(out);
    const int wrote = snprintf(out + used, size - used, "%s\n", text);
    return wrote >= 0 && (size_t)wrote < size - used ? 0 : -2;
}

int xl_oracle(const char* text, size_t length, char* out, size_t size) {
    out[0] = 0;
    FILE* nowhere = fopen("/dev/null", "w");
    if (nowhere == NULL) return -1;
    XLU_Config* config = xlu_cfg_init(nowhere, "oracle");
    int result = xlu_cfg_readdata(config, text, (int)length) == 0 ? 0 : -1;
    const char* value = NULL;
    if (result == 0) result = add(out, size, xlu_cfg_get_string(config, "name", &value, 1) == 0 ? value : "");
    if (result == 0) result = add(out, size, xlu_cfg_get_string(config, "uuid", &value, 1) == 0 ? value : "");
    XLU_ConfigList* list = NULL;
    int entries = 0;
    const int have = result == 0 ? xlu_cfg_get_list(config, "vif", &list, &entries, 1) : 1;
    if (have != 0 && have != 3 && result == 0) result = -1;  // 3: ESRCH, no vif at all
    for (int index = 0; have == 0 && result == 0 && index < entries; ++index) {
        const char* item = xlu_cfg_get_listitem(list, index);
        result = item == NULL ? -1 : add(out, size, item);
    }
    xlu_cfg_destroy(config);
    fclose(nowhere);
    return result;
}
