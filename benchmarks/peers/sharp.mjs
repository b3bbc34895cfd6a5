// sharp's idiom for several sizes of one image: one clone per size, all at once. The second argument, if given, is a
// JSON list of the effort for each width; otherwise sharp's default applies.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { createInterface } from 'node:readline'

const sharp = createRequire(`${resolve(process.env.SHARP_DIR)}/`)('sharp')
const WIDTHS = [150, 600, 1200, 4096]
const data = readFileSync(process.argv[2])
const efforts = process.argv[3] ? JSON.parse(process.argv[3]) : []

async function run () {
  const photo = sharp(data).autoOrient()
  const files = await Promise.all(WIDTHS.map((width, index) => photo.clone()
    .resize({ width, withoutEnlargement: true })
    .webp({ quality: 85, effort: efforts[index] })
    .toBuffer()))
  return files.reduce((sum, file) => sum + file.length, 0)
}

for await (const _ of createInterface({ input: process.stdin })) {
  const wall = process.hrtime.bigint()
  const cpu = process.cpuUsage()
  const bytes = await run()
  const { user, system } = process.cpuUsage(cpu)
  const seconds = Number(process.hrtime.bigint() - wall) / 1e9
  console.log(JSON.stringify({ wall_seconds: seconds, cpu_seconds: (user + system) / 1e6, bytes }))
}
