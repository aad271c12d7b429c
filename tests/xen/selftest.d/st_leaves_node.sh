# SPDX-License-Identifier: Apache-2.0
xenstore-write /tool/left-by-a-scenario 1
