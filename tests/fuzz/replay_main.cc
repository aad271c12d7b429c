// SPDX-License-Identifier: Apache-2.0
//
// A target without a fuzzer: runs it on the inputs of its corpus, or of the files that are named. This is what the ordinary tests
// do under the sanitizers, with the compiler that everything else is built with.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr std::string_view kMagic = "RBFZ1\n";  // pack.py

void run(std::span<const uint8_t> input) {
    // In memory of its own size, so that a step over its end is seen.
    const std::vector<uint8_t> copy(input.begin(), input.end());
    (void)LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

}  // namespace

int main(int argc, char** argv) {
    size_t inputs = 0;
    for (int i = 1; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "cannot read %s\n", argv[i]);
            return 1;
        }
        const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
        const bool packed = bytes.size() >= kMagic.size() && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
        if (!packed) {
            run(bytes);
            ++inputs;
            continue;
        }
        ringback::fuzz::Input pack(bytes.data() + kMagic.size(), bytes.size() - kMagic.size());
        while (!pack.empty()) {
            const auto length = pack.take<uint32_t>();
            // Said before it is run: the last one said is the one that failed.
            std::printf("%s: input %zu of %u bytes\n", argv[i], inputs, length);
            std::fflush(stdout);
            run(pack.bytes(length));
            ++inputs;
        }
    }
    std::printf("%zu inputs\n", inputs);
    return inputs > 0 ? 0 : 1;
}
