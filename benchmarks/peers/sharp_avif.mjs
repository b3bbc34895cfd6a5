// An AVIF at sharp's defaults. With a folder as second argument, write it there, and the same without loss, and end.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'

const sharp = createRequire(`${resolve(process.env.SHARP_DIR)}/`)('sharp')
const data = readFileSync(process.argv[2])
const folder = process.argv[3]
const resize = () => sharp(data).autoOrient().resize({ width: 1200 })

if (folder) {
  writeFileSync(join(folder, 'lossy.avif'), await resize().avif().toBuffer())
  writeFileSync(join(folder, 'lossless.png'), await resize().png().toBuffer())
  process.exit()
}
for await (const _ of createInterface({ input: process.stdin })) {
  const wall = process.hrtime.bigint()
  const cpu = process.cpuUsage()
  const { length } = await resize().avif().toBuffer()
  const { user, system } = process.cpuUsage(cpu)
  const seconds = Number(process.hrtime.bigint() - wall) / 1e9
  console.log(JSON.stringify({ wall_seconds: seconds, cpu_seconds: (user + system) / 1e6, bytes: length }))
}
