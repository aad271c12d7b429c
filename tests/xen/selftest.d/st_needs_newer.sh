# SPDX-License-Identifier: Apache-2.0
requires_release 99
